// vcsim: govmomi's vCenter simulator (the package simulator of Debian's golang-github-vmware-govmomi-dev) as a
// server of its own, on loopback, over TLS. Beyond what the simulator does:
//
//   - What an NFC lease is sent is kept (-keep), as LEASE/NAME; the simulator only counts it.
//   - SATA, NVMe and LSI Logic SAS controllers are taken as vCenter takes them; CreateImportSpec of 0.24 refuses
//     ResourceType 20, and calls "lsilogicsas" by its own name.
//   - A serial port that is not required is left out; the simulator refuses it, required or not.
//   - The connection of the first NFC upload can be cut (-cut) as a network does it, or come to a halt (-stall).
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
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

var (
	listen   = flag.String("listen", "127.0.0.1:0", "address and port")
	user     = flag.String("user", "user", "who may log in")
	password = flag.String("password", "pass", "with what")
	cert     = flag.String("cert", "", "certificate, PEM")
	key      = flag.String("key", "", "its key, PEM")
	keep     = flag.String("keep", "", "folder for what NFC leases are sent")
	cut      = flag.Int64("cut", 0, "cut the first upload after so many bytes")
	stall    = flag.Int64("stall", 0, "read no more of the first upload after so many bytes")
)

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	flag.Parse()
	model := simulator.VPX()
	must(model.Create())
	defer model.Remove()

	manager := simulator.Map.Get(*simulator.Map.Get(types.ManagedObjectReference{
		Type: "ServiceInstance", Value: "ServiceInstance",
	}).(*simulator.ServiceInstance).Content.OvfManager).(*simulator.OvfManager)
	simulator.Map.Put(&ovfManager{manager})

	config := new(tls.Config)
	if *cert != "" {
		pair, err := tls.LoadX509KeyPair(*cert, *key)
		must(err)
		config.Certificates = []tls.Certificate{pair}
	}
	model.Service.TLS = config
	model.Service.Listen = &url.URL{Host: *listen, User: url.UserPassword(*user, *password)}
	if *keep != "" || *cut > 0 || *stall > 0 {
		// Patterns with a host go before the simulator's own "/nfc/".
		host := strings.Split(*listen, ":")[0]
		model.Service.ServeMux = http.NewServeMux()
		model.Service.ServeMux.HandleFunc(host+"/nfc/", receive())
	}
	server := model.Service.NewServer()
	defer server.Close()
	must(json.NewEncoder(os.Stdout).Encode(map[string]string{"host": server.URL.Hostname(), "port": server.URL.Port()}))
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// receive has the simulator serve an upload, and keeps what it reads of it.
func receive() http.HandlerFunc {
	var uploads int32
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPut && r.Method != http.MethodPost {
			http.Error(w, "uploads only", http.StatusMethodNotAllowed) // the simulator's download crashes
			return
		}
		if first := atomic.AddInt32(&uploads, 1) == 1; first && *cut > 0 {
			_, _ = io.CopyN(io.Discard, r.Body, *cut)
			panic(http.ErrAbortHandler) // net/http: closes the connection without an answer
		} else if first && *stall > 0 {
			_, _ = io.CopyN(io.Discard, r.Body, *stall)
			log.Print("stalled")
			time.Sleep(time.Minute)
			return
		}
		if *keep != "" {
			folder := filepath.Join(*keep, path.Base(path.Dir(r.URL.Path)))
			must(os.MkdirAll(folder, 0o755))
			file, err := os.Create(filepath.Join(folder, path.Base(r.URL.Path)))
			must(err)
			defer file.Close()
			r.Body = io.NopCloser(io.TeeReader(r.Body, file))
		}
		simulator.ServeNFC(w, r)
	}
}

// ovfManager takes what vCenter takes and the simulator's own does not.
type ovfManager struct{ *simulator.OvfManager }

var (
	item       = regexp.MustCompile(`(?s)<(\w+:)?Item\b.*?</(\w+:)?Item>`)
	optional   = regexp.MustCompile(`^<[^>]*\brequired="false"`)
	serial     = regexp.MustCompile(`ResourceType>\s*21\s*<`)
	controller = regexp.MustCompile(`ResourceType>\s*(6|20)\s*<`)
	subtype    = regexp.MustCompile(`(ResourceSubType>)\s*([^<\s]+)\s*<`)
)

// CreateImportSpec shows the simulator SCSI controllers in the place of SATA and NVMe ones, and puts these in again.
func (m *ovfManager) CreateImportSpec(ctx *simulator.Context, req *types.CreateImportSpec) soap.HasFault {
	var kinds []string // of each controller of type 6 and 20, in the descriptor's order
	req.OvfDescriptor = item.ReplaceAllStringFunc(req.OvfDescriptor, func(text string) string {
		if serial.MatchString(text) && optional.MatchString(text) {
			return ""
		}
		found := controller.FindStringSubmatch(text)
		if found == nil {
			return text
		}
		text = strings.Replace(text, ">lsilogicsas<", ">lsilogic-sas<", 1)
		kind := ""
		if model := subtype.FindStringSubmatch(text); found[1] == "20" && model != nil {
			kind = map[string]string{
				"ahci": "ahci", "vmware.sata.ahci": "ahci", "vmware.nvme.controller": "nvme",
			}[strings.ToLower(model[2])]
		}
		if kind == "" {
			if found[1] == "6" {
				kinds = append(kinds, kind)
			}
			return text // as it is; of type 20 the simulator says that it does not know it
		}
		kinds = append(kinds, kind)
		text = subtype.ReplaceAllString(text, "${1}lsilogic<")
		return controller.ReplaceAllString(text, "ResourceType>6<")
	})
	answer := m.OvfManager.CreateImportSpec(ctx, req)
	if body, ok := answer.(*methods.CreateImportSpecBody); ok && body.Res != nil {
		if spec, ok := body.Res.Returnval.ImportSpec.(*types.VirtualMachineImportSpec); ok {
			restore(spec, kinds)
		}
	}
	return answer
}

func restore(spec *types.VirtualMachineImportSpec, kinds []string) {
	n := 0
	for _, change := range spec.ConfigSpec.DeviceChange {
		device := change.GetVirtualDeviceConfigSpec()
		scsi, ok := device.Device.(types.BaseVirtualSCSIController)
		if !ok || n >= len(kinds) {
			continue
		}
		common := scsi.GetVirtualSCSIController().VirtualController
		switch kinds[n] {
		case "ahci":
			device.Device = &types.VirtualAHCIController{
				VirtualSATAController: types.VirtualSATAController{VirtualController: common},
			}
		case "nvme":
			device.Device = &types.VirtualNVMEController{VirtualController: common}
		}
		n++
	}
}
