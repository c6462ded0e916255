package appservices_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkeydb/latchkey/appservices"
)

const (
	locationPath = appPath + "/location"
	profilePath  = prefix + "/auth/profile"
)

// fault puts a fault in force.
func (d *double) fault(f appservices.Fault) {
	d.t.Helper()
	must(d.t, d.handler.AddFault(f))
}

// sendLocally sends a request without a network, so that it works in a synctest bubble. If the
// connection was dropped, the status is 0.
func (d *double) sendLocally(method, path, body string) (rec *httptest.ResponseRecorder) {
	rec = httptest.NewRecorder()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	defer func() {
		if v := recover(); v != nil {
			if v != http.ErrAbortHandler {
				panic(v)
			}
			rec.Code = 0
		}
	}()
	d.handler.ServeHTTP(rec, r)
	return rec
}

func TestAFaultAppliesToMatchingRequests(t *testing.T) {
	for _, tt := range []struct {
		name         string
		fault        appservices.Fault
		method, path string
		fires        bool
	}{
		{"any", appservices.Fault{}, "GET", locationPath, true},
		{"any, and what a browser asks by itself", appservices.Fault{}, "OPTIONS", locationPath, false},
		{"any, and another prefix", appservices.Fault{}, "GET", "/api/admin/v3.0/groups", false},
		{"the method", appservices.Fault{Method: "GET"}, "GET", locationPath, true},
		{"another method", appservices.Fault{Method: "POST"}, "GET", locationPath, false},
		{"what a browser asks", appservices.Fault{Method: "OPTIONS"}, "OPTIONS", locationPath, true},
		{"the path", appservices.Fault{Path: "/app/demo-abcde/location"}, "GET", locationPath, true},
		{"the path with a slash too many", appservices.Fault{Path: "/app/demo-abcde/location"}, "GET", "/" + locationPath, true},
		{"another path", appservices.Fault{Path: "/app/demo-abcde/locatio"}, "GET", locationPath, false},
		{"an asterisk", appservices.Fault{Path: "/app/*/loc*"}, "GET", locationPath, true},
		{"an asterisk for two elements", appservices.Fault{Path: "/app/*"}, "GET", locationPath, false},
		{"a longer pattern", appservices.Fault{Path: "/app/*/location/*"}, "GET", locationPath, false},
		{"any rest", appservices.Fault{Path: "/app/**"}, "GET", locationPath, true},
		{"no rest", appservices.Fault{Path: "/app/*/location/**"}, "GET", locationPath, true},
		{"any rest of another path", appservices.Fault{Path: "/auth/**"}, "GET", locationPath, false},
		{"all", appservices.Fault{Path: "/**"}, "GET", locationPath, true},
		{"the app", appservices.Fault{AppID: "demo-abcde"}, "GET", locationPath, true},
		{"another app", appservices.Fault{AppID: "demo-abcd"}, "GET", locationPath, false},
		{"no app is told", appservices.Fault{AppID: "demo-abcde"}, "GET", profilePath, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDouble(t, nil)
			tt.fault.Status = 418
			d.fault(tt.fault)
			got := d.sendLocally(tt.method, tt.path, "").Code
			if (got == 418) != tt.fires {
				t.Errorf("got status %d, and fires is %v", got, tt.fires)
			}
			if counts := d.handler.Faults(); len(counts) != 1 || (counts[0].Matched == 1) != tt.fires || counts[0].Fired != counts[0].Matched {
				t.Errorf("the counts are %+v", counts)
			}
		})
	}
}

func TestARequestBelowAuthBelongsToTheAppOfItsToken(t *testing.T) {
	d := newDouble(t, nil)
	ada := d.signUp("ada@example.com")
	d.fault(appservices.Fault{AppID: "another-app", Status: 500})
	d.send("GET", profilePath, ada.access, nil).want(200)
	d.fault(appservices.Fault{AppID: "demo-abcde", Status: 500})
	d.send("GET", profilePath, ada.access, nil).want(500)
	d.send("POST", prefix+"/auth/session", ada.refresh, nil).want(500)
	d.send("GET", profilePath, "no token", nil).want(401)
}

func TestAFaultChoosesRequestsByTheirNumber(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fault appservices.Fault
		want  []int // numbers of the first ten requests
	}{
		{"all", appservices.Fault{}, []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}},
		{"the third", appservices.Fault{From: 3, To: 3}, []int{3}},
		{"up to the third", appservices.Fault{To: 3}, []int{1, 2, 3}},
		{"from the third", appservices.Fault{From: 3}, []int{3, 4, 5, 6, 7, 8, 9, 10}},
		{"every third", appservices.Fault{Every: 3}, []int{1, 4, 7, 10}},
		{"every third from the third to the eighth", appservices.Fault{From: 3, To: 8, Every: 3}, []int{3, 6}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDouble(t, nil)
			tt.fault.Path, tt.fault.Drop = "/app/*/location", true
			d.fault(tt.fault)
			var dropped []int
			for n := 1; n <= 10; n++ {
				d.sendLocally("GET", profilePath, "") // does not match, so it is not counted
				if d.sendLocally("GET", locationPath, "").Code == 0 {
					dropped = append(dropped, n)
				}
			}
			if !slices.Equal(dropped, tt.want) {
				t.Errorf("dropped %v, want %v", dropped, tt.want)
			}
			if got := d.handler.Faults()[0]; got.Matched != 10 || got.Fired != len(tt.want) {
				t.Errorf("matched %d, fired %d; want 10, %d", got.Matched, got.Fired, len(tt.want))
			}
		})
	}
}

func TestAFaultAnswersInTheServicesForm(t *testing.T) {
	d := newDouble(t, nil)
	d.fault(appservices.Fault{Status: 500, ErrorCode: "MaintenanceInProgress", Error: "back soon", To: 1})
	d.fault(appservices.Fault{Status: 404, Error: "no code", To: 2})
	d.fault(appservices.Fault{Status: 500, ErrorCode: "InternalServerError", To: 3})
	d.fault(appservices.Fault{Status: 502})

	d.send("GET", locationPath, "", nil).refused(500, "MaintenanceInProgress", "back soon")
	r := d.send("GET", locationPath, "", nil).refused(404, "", "no code")
	if r.header.Get("Access-Control-Allow-Origin") == "" {
		t.Error("a page in a browser could not read it")
	}
	body := d.send("GET", locationPath, "", nil).want(500).json()
	if text, ok := body["error"]; ok || body["error_code"] != "InternalServerError" || body["link"] == nil {
		t.Errorf("with a code alone the body is %v, and its text %q", body, text)
	}
	r = d.send("GET", locationPath, "", nil).want(502)
	if _, typed := r.header["Content-Type"]; typed || len(r.body) > 0 {
		t.Errorf("without texts: got %q, %v; want no body", r.body, r.header)
	}
}

func TestDelaysAddUpAndTheFirstEndingFaultAnswers(t *testing.T) {
	d := newDouble(t, nil)
	d.fault(appservices.Fault{Delay: time.Second})
	d.fault(appservices.Fault{Delay: 2 * time.Second, Status: 500, From: 2})
	d.fault(appservices.Fault{Delay: 4 * time.Second, Status: 503, From: 2})
	synctest.Test(t, func(t *testing.T) {
		for _, want := range []struct {
			status int
			took   time.Duration
		}{{200, time.Second}, {500, 7 * time.Second}} {
			start := time.Now()
			if got := d.sendLocally("GET", locationPath, "").Code; got != want.status || time.Since(start) != want.took {
				t.Errorf("got %d after %v, want %+v", got, time.Since(start), want)
			}
		}
	})
}

func TestADelayedRequestKeepsItsBody(t *testing.T) {
	d := newDouble(t, nil)
	d.fault(appservices.Fault{Delay: time.Second})
	synctest.Test(t, func(t *testing.T) {
		// This call does not hash. The goroutines of a hash would belong to the bubble, but the
		// store is outside it.
		resend := appPath + "/auth/providers/local-userpass/confirm/send"
		if got := d.sendLocally("POST", resend, `{"email":"ada@example.com"}`); got.Code != 404 {
			t.Errorf("got %d, %s", got.Code, got.Body)
		}
		if got := d.sendLocally("POST", resend, strings.Repeat(" ", 1<<20)+"{}"); got.Code != 413 {
			t.Errorf("too long a body: got %d, %s", got.Code, got.Body)
		}
	})
}

// A pipes is a listener without a network. Its connections and their deadlines use the time of a
// synctest bubble.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if conn, open := <-p; open {
		return conn, nil
	}
	return nil, net.ErrClosed
}

func (p pipes) Close() error   { close(p); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p pipes) dial(context.Context, string, string) (net.Conn, error) {
	server, client := net.Pipe()
	p <- server
	return client, nil
}

func TestADelayCanExceedTheServersWriteTimeout(t *testing.T) {
	for _, version := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(version, func(t *testing.T) {
			d := newDouble(t, nil)
			d.fault(appservices.Fault{Delay: time.Hour})
			synctest.Test(t, func(t *testing.T) {
				protocols := new(http.Protocols)
				protocols.SetHTTP1(version == "HTTP/1.1")
				protocols.SetUnencryptedHTTP2(version == "HTTP/2.0")
				listener := make(pipes)
				srv := appservices.NewServer("", d.handler)
				srv.Protocols = protocols
				go srv.Serve(listener)
				defer srv.Close()
				transport := &http.Transport{DialContext: listener.dial, Protocols: protocols}
				defer transport.CloseIdleConnections()

				for method, want := range map[string]int{"GET": 200, "POST": 405} {
					begun := time.Now()
					req, err := http.NewRequest(method, "http://double"+locationPath, strings.NewReader("{}"))
					must(t, err)
					resp, err := transport.RoundTrip(req)
					if err != nil {
						t.Fatalf("no reply: %v", err)
					}
					if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != want || resp.Proto != version {
						t.Errorf("got %s %s, body %v; want %d", resp.Proto, resp.Status, err, want)
					}
					if took := time.Since(begun); took != time.Hour {
						t.Errorf("it took %v", took)
					}
				}
			})
		})
	}
}

func TestADelayEndsWhenTheClientHasLeft(t *testing.T) {
	ended := make(tellingHandler, 1)
	d := newDouble(t, &appservices.Options{Logger: slog.New(ended)})
	d.fault(appservices.Fault{Delay: 1000 * time.Hour})
	ctx, leave := context.WithCancel(t.Context())
	body, write := io.Pipe()
	go func() {
		io.WriteString(write, "{}")
		write.Close()
		leave()
	}()
	req, err := http.NewRequestWithContext(ctx, "POST", d.url+locationPath, body)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := http.DefaultClient.Do(req); !errors.Is(err, context.Canceled) {
		t.Errorf("the request ended with %v", err)
	}
	(<-ended).Attrs(func(a slog.Attr) bool {
		if a.Key == "status" && a.Value.Int64() != 0 {
			t.Errorf("the request went on, and got status %v", a.Value)
		}
		return true
	})
	if got := d.handler.Faults()[0].Fired; got != 1 {
		t.Errorf("the fault fired %d times", got)
	}
}

// A tellingHandler is a log that sends each record to a channel.
type tellingHandler chan slog.Record

func (h tellingHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h tellingHandler) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h tellingHandler) WithGroup(string) slog.Handler            { return h }
func (h tellingHandler) Handle(_ context.Context, r slog.Record) error {
	h <- r
	return nil
}

func TestADroppedConnectionGivesTheClientNoAnswer(t *testing.T) {
	d := newDouble(t, nil)
	d.fault(appservices.Fault{Method: "POST", Drop: true})
	if resp, err := http.Post(d.url+locationPath, "", strings.NewReader("{}")); err == nil {
		t.Errorf("there is an answer: %s", resp.Status)
	}
	d.handler.ClearFaults()
	resp, err := http.Post(d.url+locationPath, "", strings.NewReader("{}"))
	if err != nil || resp.StatusCode != 405 {
		t.Errorf("without the fault: %v, %v", resp, err)
	}
	resp.Body.Close()
	if left := d.handler.Faults(); len(left) != 0 {
		t.Errorf("there are still %v", left)
	}
}

func TestInvalidFaultsAreRefused(t *testing.T) {
	d := newDouble(t, nil)
	for _, f := range []string{
		`{}`,
		`{"from":1}`,
		`{"error":"text","delay":"1s"}`,
		`{"error_code":"Code","drop":true}`,
		`{"status":399}`,
		`{"status":600}`,
		`{"status":200,"delay":"1s"}`,
		`{"status":500,"drop":true}`,
		`{"status":500,"path":"auth/session"}`,
		`{"status":500,"path":"/auth/[a"}`,
		`{"status":500,"path":"/**/session"}`,
		`{"status":500,"from":-1}`,
		`{"status":500,"to":-1}`,
		`{"status":500,"every":-1}`,
		`{"status":500,"from":3,"to":2}`,
		`{"delay":"-1s"}`,
		`{"delay":"soon"}`,
		`{"delay":1}`,
		`{"status":500,"statsu":500}`,
		`{"status":"500"}`,
		`[]`,
	} {
		var fault appservices.Fault
		err := json.Unmarshal([]byte(f), &fault)
		if err == nil {
			err = d.handler.AddFault(fault)
		}
		if !errors.Is(err, appservices.ErrInvalidFault) {
			t.Errorf("%s: got error %v, want ErrInvalidFault", f, err)
		}
	}
	if counts := d.handler.Faults(); len(counts) != 0 {
		t.Errorf("there are faults: %v", counts)
	}
}

func TestTheJSONOfAFaultHasAllFields(t *testing.T) {
	whole := appservices.Fault{
		Method: "POST", Path: "/auth/**", AppID: "demo-abcde", From: 2, To: 8, Every: 3,
		Delay: 1500 * time.Millisecond, Status: 503, ErrorCode: "InternalServerError", Error: "text",
	}
	for _, tt := range []struct {
		fault appservices.Fault
		json  string
	}{
		{whole, `{"method":"POST","path":"/auth/**","app_id":"demo-abcde","from":2,"to":8,"every":3,` +
			`"status":503,"error_code":"InternalServerError","error":"text","delay":"1.5s"}`},
		{appservices.Fault{Drop: true}, `{"drop":true}`},
	} {
		got, err := json.Marshal(tt.fault)
		if err != nil || string(got) != tt.json {
			t.Errorf("got %s, %v; want %s", got, err, tt.json)
		}
		var back appservices.Fault
		if err := json.Unmarshal([]byte(tt.json), &back); err != nil || !reflect.DeepEqual(back, tt.fault) {
			t.Errorf("got %+v, %v; want %+v", back, err, tt.fault)
		}
	}
}
