package main

import (
	"bytes"
	"crypto/sha1"
	"crypto/tls"
	"flag"
	"fmt"
	"net"
	"net/http"
	"strings"
)

var (
	hostCert   = flag.String("host-cert", "", "certificate of the host that takes disks, PEM, if that is another")
	hostKey    = flag.String("host-key", "", "its key, PEM")
	thumbprint = flag.String("thumbprint", "", "what a lease tells of it, if not the truth")
)

// withHost has a lease name another server than the one that is asked, which serves the same, and its thumbprint: as a
// vCenter does, whose disks go to the hosts.
func withHost(next http.Handler, own string) http.Handler {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	shown := pair(*hostCert, *hostKey)
	told := *thumbprint
	if told == "" {
		digest := sha1.Sum(shown.Certificate[0])
		told = strings.ReplaceAll(fmt.Sprintf("% X", digest[:]), " ", ":")
	}
	host := &http.Server{Handler: next, TLSConfig: &tls.Config{Certificates: []tls.Certificate{shown}}}
	go func() { _ = host.ServeTLS(listener, "", "") }()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/sdk" {
			next.ServeHTTP(w, r)
			return
		}
		said := &answer{ResponseWriter: w}
		next.ServeHTTP(said, r)
		said.body = bytes.ReplaceAll(said.body, []byte(own+nfc), []byte(listener.Addr().String()+nfc))
		said.body = bytes.ReplaceAll(
			said.body, []byte("<sslThumbprint></sslThumbprint>"), []byte("<sslThumbprint>"+told+"</sslThumbprint>"),
		)
		said.send()
	})
}
