package telemetry

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/pprof"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
)

// Where a program is asked for its health, and for more.
const (
	LivePath    = "/livez"
	ReadyPath   = "/readyz"
	MetricsPath = "/metrics"
	pprofPath   = "/debug/pprof/"
)

// Limits of the server: whoever asks is not trusted to be quick.
const (
	headerPatience = 5 * time.Second
	answerPatience = 30 * time.Second // a CPU profile takes as long as is asked for
	profileLongest = 5 * time.Minute
	closePatience  = 2 * time.Second
)

// Check says what keeps a program from its work; nil when nothing does.
type Check func(ctx context.Context) error

// ServerOptions say what a server answers.
type ServerOptions struct {
	// Checks are what /readyz asks, by the names that it tells.
	Checks map[string]Check
	// Metrics are served at /metrics.
	Metrics *Telemetry
	// Pprof serves profiles of the program, which tell a lot about it.
	Pprof bool
	Log   *zap.Logger
}

// Server answers how a program is, on a listener of its own.
type Server struct {
	http    *http.Server
	served  sync.WaitGroup
	address string
}

// Listen begins to answer at an address. It is for one network that is trusted:
// there is no authentication, and no TLS.
func Listen(ctx context.Context, address string, o ServerOptions) (*Server, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	s := &Server{address: listener.Addr().String(), http: &http.Server{
		Handler:           newHandler(o),
		ReadHeaderTimeout: headerPatience,
		ReadTimeout:       headerPatience,
		WriteTimeout:      profileLongest,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          zap.NewStdLog(o.Log),
	}}
	s.served.Go(func() {
		if err := s.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			o.Log.Error("health and metrics are no longer served", zap.Error(err))
		}
	})
	return s, nil
}

// Address is where the server listens.
func (s *Server) Address() string { return s.address }

// Close ends the server, soon: what ends the program does not end its answers.
func (s *Server) Close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closePatience)
	defer cancel()
	if s.http.Shutdown(ctx) != nil {
		_ = s.http.Close() // somebody reads slowly
	}
	s.served.Wait()
}

func newHandler(o ServerOptions) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+LivePath, func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "alive\n") })
	mux.HandleFunc("GET "+ReadyPath, func(w http.ResponseWriter, r *http.Request) { ready(w, r, o.Checks) })
	if o.Metrics != nil && o.Metrics.registry != nil {
		metrics := promhttp.HandlerFor(o.Metrics.registry, promhttp.HandlerOpts{ErrorLog: zap.NewStdLog(o.Log), Timeout: answerPatience})
		mux.Handle("GET "+MetricsPath, metrics)
	}
	if o.Pprof {
		mux.HandleFunc(pprofPath, pprof.Index)
		// The command line may have a password in a URL.
		mux.HandleFunc(pprofPath+"cmdline", http.NotFound)
		mux.HandleFunc(pprofPath+"profile", pprof.Profile)
		mux.HandleFunc(pprofPath+"symbol", pprof.Symbol)
		mux.HandleFunc(pprofPath+"trace", pprof.Trace)
	}
	return mux
}

// ready answers with a line for each check, and with 503 when one fails.
func ready(w http.ResponseWriter, r *http.Request, checks map[string]Check) {
	ctx, cancel := context.WithTimeout(r.Context(), headerPatience)
	defer cancel()
	status := http.StatusOK
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(checks)) {
		if err := checks[name](ctx); err != nil {
			status = http.StatusServiceUnavailable
			fmt.Fprintf(&text, "%s: %v\n", name, err)
			continue
		}
		fmt.Fprintf(&text, "%s: ok\n", name)
	}
	answer(w, status, text.String())
}

func answer(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text)) // whoever asked has gone
}
