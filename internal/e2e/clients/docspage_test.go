package clients_test

import (
	"encoding/json"
	"net/http"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/websocket"

	"github.com/teamtoken/teamtoken/internal/e2e/harness"
)

// browser is a real Chromium, told what to do by its own protocol.
type browser struct {
	t      *testing.T
	socket *websocket.Conn
	next   int
	events []event
}

type event struct {
	ID     int
	Method string
	Params json.RawMessage
	Result json.RawMessage
	Error  json.RawMessage
}

func openBrowser(t *testing.T) *browser {
	t.Helper()
	chromium := harness.Tool(t, "chromium", "TEAMTOKEN_CHROMIUM", "apt-get install chromium")
	cmd := exec.Command(chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0",
		"--remote-allow-origins=*", "--user-data-dir="+t.TempDir(), "about:blank")
	var said harness.Output
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	var address []string
	harness.Eventually(t, "the browser listens", func() bool {
		address = regexp.MustCompile(`ws://(\S+?)/`).FindStringSubmatch(said.String())
		return address != nil
	})
	var pages []struct{ Type, WebSocketDebuggerURL string }
	harness.Eventually(t, "the browser has a page", func() bool {
		resp, err := http.Get("http://" + address[1] + "/json/list")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return json.NewDecoder(resp.Body).Decode(&pages) == nil && len(pages) > 0
	})
	for _, page := range pages {
		if page.Type == "page" {
			b := &browser{t: t, socket: harness.Must(websocket.Dial(page.WebSocketDebuggerURL, "", "http://localhost"))}
			t.Cleanup(func() { _ = b.socket.Close() })
			return b
		}
	}
	t.Fatal("the browser has no page")
	return nil
}

// do has the browser do something, and returns what it answers. What happens meanwhile
// is kept.
func (b *browser) do(method string, params any) json.RawMessage {
	b.t.Helper()
	b.next++
	if err := websocket.JSON.Send(b.socket, map[string]any{"id": b.next, "method": method, "params": params}); err != nil {
		b.t.Fatal(err)
	}
	for {
		_ = b.socket.SetReadDeadline(time.Now().Add(harness.Patience))
		var e event
		if err := websocket.JSON.Receive(b.socket, &e); err != nil {
			b.t.Fatal(err)
		}
		if e.ID != b.next {
			b.events = append(b.events, e)
			continue
		}
		if e.Error != nil {
			b.t.Fatalf("%s: %s", method, e.Error)
		}
		return e.Result
	}
}

// number is what an expression is in the page.
func (b *browser) number(expression string) (n float64) {
	b.t.Helper()
	var answer struct{ Result struct{ Value float64 } }
	if err := json.Unmarshal(b.do("Runtime.evaluate", map[string]any{"expression": expression}), &answer); err != nil {
		b.t.Fatal(err)
	}
	return answer.Result.Value
}

// The page of the REST surface works in a real browser, wide and narrow, with all its
// parts opened: nothing is asked of another host, nothing is wrong, and nothing can be
// called from it. It can be switched off.
func TestDocsPage(t *testing.T) {
	t.Parallel()
	sim, upstream := harness.NewSimulator(t)
	f := harness.Start(t, harness.WithService(sim, upstream))
	host := strings.TrimPrefix(f.REST, "http://")
	for name, width := range map[string]int{"desktop": 1280, "phone": 390} {
		t.Run(name, func(t *testing.T) {
			b := openBrowser(t)
			for _, domain := range []string{"Page", "Network", "Log", "Runtime"} {
				b.do(domain+".enable", struct{}{})
			}
			b.do("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600})
			b.do("Page.navigate", map[string]any{"url": f.REST + "/docs/"})
			harness.Eventually(t, "the page shows every operation", func() bool { return b.number(`document.querySelectorAll(".opblock").length`) == 8 })
			b.number(`document.querySelectorAll(".opblock-summary-control").forEach(e => e.click()), 0`)
			harness.Eventually(t, "every operation is open", func() bool {
				return b.number(`document.querySelectorAll(".opblock.is-open .responses-table").length`) == 8
			})
			if over := b.number(`document.documentElement.scrollWidth - window.innerWidth`); over > 0 {
				t.Errorf("it is %v pixels too wide", over)
			}
			if n := b.number(`document.querySelectorAll(".try-out__btn, .execute").length`); n != 0 {
				t.Errorf("%v buttons call the service", n)
			}
			requests := 0
			for _, e := range b.events {
				var p struct {
					Request struct{ URL string }
					Entry   struct{ Level, Text, URL string }
					Type    string
				}
				_ = json.Unmarshal(e.Params, &p)
				switch e.Method {
				case "Network.requestWillBeSent":
					requests++
					if !strings.HasPrefix(p.Request.URL, "http://"+host+"/") && !strings.HasPrefix(p.Request.URL, "data:") {
						t.Errorf("it asks for %s", p.Request.URL)
					}
				case "Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled":
					if e.Method != "Log.entryAdded" && p.Type != "error" && e.Method != "Runtime.exceptionThrown" {
						continue
					}
					t.Errorf("%s: %s", e.Method, e.Params)
				}
			}
			if requests < 6 {
				t.Errorf("%d requests were seen: too few to show anything", requests)
			}
		})
	}
	policy := ""
	if resp, err := f.HTTP.Get(f.REST + "/docs/"); err == nil {
		policy = resp.Header.Get("Content-Security-Policy")
		_ = resp.Body.Close()
	}
	if !strings.HasPrefix(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") || strings.Contains(policy, "http") {
		t.Errorf("the page may do too much: %s", policy)
	}

	s := harness.WithService(sim, upstream)
	s.Env = append(s.Env, "TEAMTOKEN_DOCS=false")
	off := harness.Start(t, s)
	for _, path := range []string{"/docs", "/docs/", "/openapi.json", "/docs/page.js"} {
		resp, err := off.HTTP.Get(off.REST + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	for _, path := range []string{"/docs/nothing", "/openapi.json/", "/docs/./page.js"} {
		req := harness.Must(http.NewRequestWithContext(t.Context(), http.MethodGet, f.REST, nil))
		req.URL.Opaque = path // as it stands
		resp, err := f.HTTP.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
}
