package main

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"hash"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
)

const (
	sessions = "/rest/com/vmware/content/library/item/update-session"
	adding   = "/rest/com/vmware/content/library/item/updatesession/file/id:"
	listing  = "/rest/com/vmware/content/library/item/file"
	data     = "/rest/com/vmware/cis/data/"
	nfc      = "/nfc/"
)

type checksum struct {
	Algorithm string `json:"algorithm"`
	Checksum  string `json:"checksum"`
}

// announced is a file that an update session was told of.
type announced struct {
	session string
	item    string
	Name    string    `json:"name"`
	Size    int64     `json:"size"`
	Sum     *checksum `json:"checksum_info"`
}

// uploads keeps what is sent, and does for content libraries what their API promises and the simulator leaves out.
type uploads struct {
	folder string
	next   http.Handler
	mutex  sync.Mutex
	items  map[string]string    // by update session
	files  map[string]announced // by the path of their upload
	sums   map[string]string    // SHA-256 by item and name
}

func newUploads(folder string, next http.Handler) http.Handler {
	return &uploads{
		folder: folder, next: next,
		items: map[string]string{}, files: map[string]announced{}, sums: map[string]string{},
	}
}

func (u *uploads) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch at, action := r.URL.Path, r.URL.Query().Get("~action"); {
	case strings.HasPrefix(at, nfc) && r.Method != http.MethodPut && r.Method != http.MethodPost:
		http.Error(w, "uploads only", http.StatusMethodNotAllowed)
	case strings.HasPrefix(at, nfc):
		u.disk(w, r)
	case strings.HasPrefix(at, data) && r.Method == http.MethodPut:
		u.file(w, r)
	case at == sessions && r.Method == http.MethodPost:
		u.session(w, r)
	case strings.HasPrefix(at, adding) && action == "add":
		u.add(w, r)
	case at == listing && r.Method == http.MethodGet:
		u.list(w, r)
	default:
		u.next.ServeHTTP(w, r)
	}
}

// kept is the file that what is sent to a path goes into, as well.
func (u *uploads) kept(r *http.Request, folder string) *os.File {
	where := u.folder
	if where == "" {
		where = os.TempDir()
	}
	where = filepath.Join(where, folder)
	must(os.MkdirAll(where, 0o755))
	file, err := os.Create(filepath.Join(where, path.Base(r.URL.Path)))
	must(err)
	return file
}

// disk goes on to the simulator as it comes.
func (u *uploads) disk(w http.ResponseWriter, r *http.Request) {
	file := u.kept(r, path.Base(path.Dir(r.URL.Path)))
	defer file.Close()
	r.Body = io.NopCloser(io.TeeReader(r.Body, file))
	u.next.ServeHTTP(w, r)
}

// file takes a file of an item, all of it before the simulator does, which holds its lock while it reads. One that is not
// what was announced fails the session, as vCenter has it.
func (u *uploads) file(w http.ResponseWriter, r *http.Request) {
	u.mutex.Lock()
	one := u.files[r.URL.Path]
	u.mutex.Unlock()
	file := u.kept(r, one.item)
	defer file.Close()
	running := map[string]hash.Hash{"SHA256": sha256.New()}
	if one.Sum != nil && one.Sum.Algorithm == "SHA1" {
		running["SHA1"] = sha1.New()
	} else if one.Sum != nil && one.Sum.Algorithm == "SHA512" {
		running["SHA512"] = sha512.New()
	}
	into := []io.Writer{file}
	for _, sum := range running {
		into = append(into, sum)
	}
	size, err := io.Copy(io.MultiWriter(into...), r.Body)
	if err != nil {
		log.Printf("%s: broke off after %d bytes", r.URL.Path, size)
		panic(http.ErrAbortHandler)
	}
	_, err = file.Seek(0, io.SeekStart)
	must(err)
	r.Body = io.NopCloser(file)
	said := &answer{ResponseWriter: w}
	defer said.send()
	u.next.ServeHTTP(said, r)
	if said.status != 0 && said.status != http.StatusOK {
		return
	}
	digest := func(name string) string { return hex.EncodeToString(running[name].Sum(nil)) }
	if (one.Size != 0 && size != one.Size) || (one.Sum != nil && digest(one.Sum.Algorithm) != one.Sum.Checksum) {
		log.Printf("%s is not what was announced", one.Name)
		failed, _ := http.NewRequest(http.MethodPost, sessions+"/id:"+one.session+"?~action=fail", nil)
		failed.Header = r.Header
		u.next.ServeHTTP(&answer{ResponseWriter: discard{}}, failed)
	}
	u.mutex.Lock()
	u.sums[one.item+"/"+one.Name] = digest("SHA256")
	u.mutex.Unlock()
}

type discard struct{}

func (discard) Header() http.Header              { return http.Header{} }
func (discard) Write(octets []byte) (int, error) { return len(octets), nil }
func (discard) WriteHeader(int)                  {}

// asked is the request's body as `into`, and what the simulator says to it as `value`.
func (u *uploads) asked(w http.ResponseWriter, r *http.Request, into any, value any) *answer {
	body, _ := io.ReadAll(r.Body)
	_ = json.Unmarshal(body, into)
	r.Body = io.NopCloser(bytes.NewReader(body))
	said := &answer{ResponseWriter: w}
	u.next.ServeHTTP(said, r)
	_ = json.Unmarshal(said.body, &struct {
		Value any `json:"value"`
	}{value})
	return said
}

func (u *uploads) session(w http.ResponseWriter, r *http.Request) {
	var spec struct {
		Session struct {
			Item string `json:"library_item_id"`
		} `json:"create_spec"`
	}
	var id string
	defer u.asked(w, r, &spec, &id).send()
	u.mutex.Lock()
	defer u.mutex.Unlock()
	u.items[id] = spec.Session.Item
}

func (u *uploads) add(w http.ResponseWriter, r *http.Request) {
	var spec struct {
		File announced `json:"file_spec"`
	}
	var made struct {
		Endpoint struct {
			URI string `json:"uri"`
		} `json:"upload_endpoint"`
	}
	defer u.asked(w, r, &spec, &made).send()
	u.mutex.Lock()
	defer u.mutex.Unlock()
	spec.File.session = strings.TrimPrefix(r.URL.Path, adding)
	spec.File.item = u.items[spec.File.session]
	if where, err := url.Parse(made.Endpoint.URI); err == nil {
		u.files[where.Path] = spec.File
	}
}

func (u *uploads) list(w http.ResponseWriter, r *http.Request) {
	var files []map[string]any
	said := u.asked(w, r, &struct{}{}, &files)
	u.mutex.Lock()
	defer u.mutex.Unlock()
	for _, one := range files {
		if sum := u.sums[r.URL.Query().Get("library_item_id")+"/"+one["name"].(string)]; sum != "" {
			one["checksum_info"] = checksum{"SHA256", sum}
		}
	}
	if files != nil {
		said.body, _ = json.Marshal(map[string]any{"value": files})
	}
	said.send()
}
