package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// fault is what happens to the first request of a method to a path (a regular expression) that begins so, when so many bytes of its body were
// read: the connection is cut, or comes to a halt; it goes on slowly, or with one bit changed; it is done, and not
// answered ("late"); or it is answered with a status, which has an error of the Automation API in its body where a kind
// is named.
type fault struct {
	method, does string
	path         *regexp.Regexp
	after        int64
	kind         string
}

type faults struct {
	mutex sync.Mutex
	all   []*fault
}

func (f *faults) String() string { return "" }

func (f *faults) Set(text string) error {
	words := strings.Fields(text)
	if len(words) < 4 {
		return fmt.Errorf("%q is no fault", text)
	}
	after, err := strconv.ParseInt(words[3], 10, 64)
	if err != nil {
		return err
	}
	path, err := regexp.Compile("^" + words[1])
	f.all = append(f.all, &fault{words[0], words[2], path, after, strings.Join(words[4:], " ")})
	return err
}

func (f *faults) take(r *http.Request) *fault {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	for i, one := range f.all {
		if one.method == r.Method && one.path.MatchString(r.URL.RequestURI()) {
			f.all = append(f.all[:i:i], f.all[i+1:]...)
			return one
		}
	}
	return nil
}

func (f *faults) before(next http.Handler, closing <-chan struct{}) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		one := f.take(r)
		if one == nil {
			next.ServeHTTP(w, r)
			return
		}
		log.Printf("fault: %s %s %s", r.Method, r.URL.Path, one.does)
		switch one.does {
		case "slow":
			r.Body = &changed{ReadCloser: r.Body, each: 50 * time.Millisecond, flip: -1}
			next.ServeHTTP(w, r)
			return
		case "flip":
			r.Body = &changed{ReadCloser: r.Body, flip: one.after}
			next.ServeHTTP(w, r)
			return
		case "late":
			next.ServeHTTP(&answer{ResponseWriter: w}, r)
			halt(closing)
		}
		_, _ = io.CopyN(io.Discard, r.Body, one.after)
		switch one.does {
		case "cut":
			panic(http.ErrAbortHandler) // net/http: closes the connection without an answer
		case "stall":
			log.Print("stalled")
			halt(closing)
		default:
			one.refuse(w)
		}
	})
}

func halt(closing <-chan struct{}) {
	select {
	case <-closing:
	case <-time.After(time.Minute):
	}
	panic(http.ErrAbortHandler)
}

// refuse answers as the Automation API does, where a kind is named.
func (f *fault) refuse(w http.ResponseWriter) {
	status, err := strconv.Atoi(f.does)
	must(err)
	if f.kind == "" {
		http.Error(w, http.StatusText(status), status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	kind, said, _ := strings.Cut(f.kind, " ")
	message := map[string]any{"id": "vcsim." + kind, "default_message": said, "args": []string{}}
	_ = json.NewEncoder(w).Encode(map[string]any{
		"type": "com.vmware.vapi.std.errors." + kind, "value": map[string]any{"messages": []any{message}},
	})
}

// changed is a body that comes slowly, or with one bit that was not sent.
type changed struct {
	io.ReadCloser
	each time.Duration
	flip int64
	at   int64
}

func (c *changed) Read(into []byte) (int, error) {
	time.Sleep(c.each)
	if c.each > 0 && len(into) > 1<<15 {
		into = into[:1<<15]
	}
	n, err := c.ReadCloser.Read(into)
	if c.flip >= c.at && c.flip < c.at+int64(n) {
		into[c.flip-c.at] ^= 1
	}
	c.at += int64(n)
	return n, err
}

type refusals []*simulator.FaultInjectionRule

func (r *refusals) String() string { return "" }

// Set is of a method, and of a fault by its name in vSphere's Web Services API; WORD is what it names, TIMES how often.
func (r *refusals) Set(text string) error {
	words := strings.Fields(text)
	if len(words) < 3 {
		return fmt.Errorf("%q is no fault", text)
	}
	denied := types.NoPermission{PrivilegeId: words[2]}
	known := map[string]types.BaseMethodFault{
		"NoPermission":     &denied,
		"NotAuthenticated": &types.NotAuthenticated{NoPermission: denied},
		"NoDiskSpace":      &types.NoDiskSpace{Datastore: words[2]},
	}
	times := 0 // always
	if len(words) > 3 {
		times, _ = strconv.Atoi(words[3])
	}
	if known[words[1]] == nil {
		return fmt.Errorf("%q is no fault", words[1])
	}
	*r = append(*r, &simulator.FaultInjectionRule{
		MethodName: words[0], ObjectType: "*", ObjectName: "*", Probability: 1, Enabled: true, MaxCount: times,
		FaultType: simulator.FaultTypeCustom, Fault: known[words[1]], Message: "said for a test: " + words[1],
	})
	return nil
}

// authorization says that a privilege is missing, which the simulator's own never does.
type authorization struct {
	*simulator.AuthorizationManager
	missing string
}

func (a *authorization) HasPrivilegeOnEntity(req *types.HasPrivilegeOnEntity) soap.HasFault {
	answer := &privileges{Res: new(HasPrivilegeOnEntityResponse)}
	for _, id := range req.PrivId {
		answer.Res.Returnval = append(answer.Res.Returnval, id != a.missing)
	}
	return answer
}

type privileges struct{ Res *HasPrivilegeOnEntityResponse }

func (*privileges) Fault() *soap.Fault { return nil }

// HasPrivilegeOnEntityResponse is that of types, which leaves out what is false.
type HasPrivilegeOnEntityResponse struct {
	Returnval []bool `xml:"returnval"`
}
