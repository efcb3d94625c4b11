// vcsim: govmomi's vCenter simulator (the module of go.mod) as a server of its own, on loopback, over TLS. Beyond what
// the simulator does:
//
//   - What an NFC lease is sent is kept (-keep), as LEASE/NAME, and what a content library is, as ITEM/NAME: the simulator
//     only counts the one, and takes the other's disks apart.
//   - SATA and NVMe controllers are taken as vCenter takes them, and a serial port that is not required is left out;
//     the simulator's CreateImportSpec refuses ResourceType 20 and 21.
//   - A content library compares what it was sent with the size and the checksum that were announced, and tells a
//     checksum of its files, as vCenter does (library.go).
//   - Disks can be taken by a host of its own port and certificate (-host-cert), whose thumbprint the lease tells (host.go).
//   - A request can fail (-fault) as networks and servers fail, once for each such option (faults.go); a method of SOAP
//     can answer a fault of vSphere's (-refuse), by the simulator's own injection.
//
// It prints one line of JSON when it listens, and ends when its stdin does.
package main

import (
	"crypto/tls"
	"encoding/json"
	"flag"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"

	"github.com/vmware/govmomi/simulator"
	_ "github.com/vmware/govmomi/vapi/simulator" // the Automation API, with content libraries
	"github.com/vmware/govmomi/vim25/types"
)

var (
	listen   = flag.String("listen", "127.0.0.1:0", "address and port")
	user     = flag.String("user", "user", "who may log in")
	password = flag.String("password", "pass", "with what")
	cert     = flag.String("cert", "", "certificate, PEM")
	key      = flag.String("key", "", "its key, PEM")
	keep     = flag.String("keep", "", "folder for what is uploaded")
	version  = flag.String("api", "8.0.3.0", "version of the API that it says it has")
	esx      = flag.Bool("esx", false, "be a single ESXi")
	missing  = flag.String("missing", "", "a privilege that it says nobody has")
	room     = flag.Int64("room", 0, "free bytes of each datastore, if not the simulator's own")
)

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func pair(cert, key string) tls.Certificate {
	found, err := tls.LoadX509KeyPair(cert, key)
	must(err)
	return found
}

func main() {
	var faults faults
	var refusals refusals
	flag.Var(&faults, "fault", "METHOD PATH (cut|stall|slow|flip|late|STATUS) BYTES [KIND]: of the first such request")
	flag.Var(&refusals, "refuse", "METHOD FAULT WORD [TIMES]: of such calls")
	flag.Parse()

	model := simulator.VPX()
	if *esx {
		model = simulator.ESX()
	}
	model.ServiceContent.About.ApiVersion = *version
	must(model.Create())
	defer model.Remove()
	registry := model.Service.Context.Map
	content := registry.Get(types.ManagedObjectReference{
		Type: "ServiceInstance", Value: "ServiceInstance",
	}).(*simulator.ServiceInstance).Content
	registry.Put(&ovfManager{registry.Get(*content.OvfManager).(*simulator.OvfManager)})
	registry.Put(&authorization{registry.Get(*content.AuthorizationManager).(*simulator.AuthorizationManager), *missing})
	if *room > 0 {
		for _, one := range registry.All("Datastore") {
			one.(*simulator.Datastore).Summary.FreeSpace = *room
		}
	}
	for _, one := range refusals {
		model.Service.AddFaultRule(one)
	}

	config := new(tls.Config)
	if *cert != "" {
		config.Certificates = []tls.Certificate{pair(*cert, *key)}
	}
	model.Service.TLS = config
	model.Service.Listen = &url.URL{Host: *listen, User: url.UserPassword(*user, *password)}
	model.Service.RegisterEndpoints = true
	server := model.Service.NewServer()
	defer server.Close()
	closing := make(chan struct{})
	defer close(closing) // before server.Close, which waits for the requests that are under way
	handler := faults.before(newUploads(*keep, server.Config.Handler), closing)
	if *hostCert != "" {
		handler = withHost(handler, server.URL.Host)
	}
	server.Config.Handler = handler
	must(json.NewEncoder(os.Stdout).Encode(map[string]string{"host": server.URL.Hostname(), "port": server.URL.Port()}))
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// answer is what a handler says, to be looked at before it is sent on.
type answer struct {
	http.ResponseWriter
	status int
	body   []byte
}

func (a *answer) WriteHeader(status int) { a.status = status }

func (a *answer) Write(octets []byte) (int, error) {
	a.body = append(a.body, octets...)
	return len(octets), nil
}

func (a *answer) send() {
	a.ResponseWriter.Header().Del("Content-Length")
	if a.status != 0 {
		a.ResponseWriter.WriteHeader(a.status)
	}
	_, _ = a.ResponseWriter.Write(a.body)
}
