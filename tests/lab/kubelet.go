package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/kubelet/pkg/cri/streaming/portforward"
)

// serveKubelet offers what the API server asks of a node: port-forward and logs, to its own client certificate only.
func (a *agent) serveKubelet(ctx context.Context) error {
	if err := a.cluster.authority.writePair(a.cluster.dir, "kubelet", "system:node:"+nodeName, []string{"system:nodes"}, nodeAddress); err != nil {
		return err
	}
	certificate, err := tls.LoadX509KeyPair(a.cluster.file("kubelet.crt"), a.cluster.file("kubelet.key"))
	if err != nil {
		return err
	}
	clients := x509.NewCertPool()
	clients.AddCert(a.cluster.authority.certificate)
	listener, err := tls.Listen("tcp", net.JoinHostPort(nodeAddress, strconv.Itoa(kubeletPort)), &tls.Config{
		Certificates: []tls.Certificate{certificate}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients,
		// Port-forward upgrades the connection, which HTTP/2 cannot do.
		NextProtos: []string{"http/1.1"},
	})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/portForward/{namespace}/{pod}", a.portForward)
	mux.HandleFunc("/portForward/{namespace}/{pod}/{uid}", a.portForward)
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", a.containerLogs)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			fmt.Fprintln(os.Stderr, "lab: kubelet port:", err)
		}
	}()
	context.AfterFunc(ctx, func() { server.Close() })
	return nil
}

func (a *agent) portForward(w http.ResponseWriter, r *http.Request) {
	runner, err := a.find(r.PathValue("namespace"), r.PathValue("pod"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	options, err := portforward.NewV4Options(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	const idle, creation = 4 * time.Hour, 30 * time.Second
	portforward.ServePortForward(w, r, runner, r.PathValue("pod"), runner.object.UID, options, idle, creation, portforward.SupportedProtocols)
}

// PortForward connects a stream to a port of the pod. It comes from the loopback address, as it does in a real pod's own network.
func (p *pod) PortForward(ctx context.Context, _ string, _ types.UID, port int32, stream io.ReadWriteCloser) error {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, Timeout: 10 * time.Second}
	connection, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(p.address, strconv.Itoa(int(port))))
	if err != nil {
		return err
	}
	splice(connection, stream)
	return nil
}

// splice copies both ways until either side ends.
func splice(a, b io.ReadWriteCloser) {
	ended := make(chan struct{}, 2)
	pipe := func(to io.WriteCloser, from io.Reader) {
		// How a connection ended is for its two ends to tell each other.
		_, _ = io.Copy(to, from)
		ended <- struct{}{}
	}
	go pipe(a, b)
	go pipe(b, a)
	<-ended
	a.Close()
	b.Close()
	<-ended
}

func (a *agent) containerLogs(w http.ResponseWriter, r *http.Request) {
	runner, err := a.find(r.PathValue("namespace"), r.PathValue("pod"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	text, err := os.ReadFile(logPath(a.supervisor.dir, runner.processName()))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	if count, err := strconv.Atoi(r.URL.Query().Get("tailLines")); err == nil && count >= 0 {
		lines := strings.SplitAfter(string(text), "\n")
		text = []byte(strings.Join(lines[max(0, len(lines)-1-count):], ""))
	}
	if _, err := w.Write(text); err != nil {
		fmt.Fprintln(os.Stderr, "lab: sending logs:", err)
	}
}

// probeRoom multiplies every probe's timeout: two cores carry several API servers.
const probeRoom = 10

// prober asks one HTTP endpoint of a pod at the probe's own pace.
type prober struct {
	url       string
	probe     *corev1.Probe
	client    *http.Client
	next      time.Time
	good, bad int32
	state     bool
}

func newProber(probe *corev1.Probe, address string) *prober {
	if probe == nil || probe.HTTPGet == nil {
		return nil
	}
	get := probe.HTTPGet
	port := get.Port.IntValue()
	if get.Port.Type == intstr.String {
		port = 8080
	}
	scheme := strings.ToLower(string(get.Scheme))
	if scheme == "" {
		scheme = "http"
	}
	timeout := time.Duration(max(probe.TimeoutSeconds, 1)) * time.Second * probeRoom
	return &prober{
		url: fmt.Sprintf("%s://%s%s", scheme, net.JoinHostPort(address, strconv.Itoa(port)), get.Path), probe: probe,
		client: &http.Client{Timeout: timeout, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}},
	}
}

// ask sends a probe where one is due and counts the answers in a row.
func (p *prober) ask(ctx context.Context, started time.Time) {
	now := time.Now()
	if now.Before(p.next) || now.Before(started.Add(time.Duration(p.probe.InitialDelaySeconds)*time.Second)) {
		return
	}
	p.next = now.Add(min(time.Duration(max(p.probe.PeriodSeconds, 1))*time.Second, time.Second))
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url, nil)
	if err != nil {
		return
	}
	answer, err := p.client.Do(request)
	if err == nil {
		answer.Body.Close()
	}
	if err == nil && answer.StatusCode >= 200 && answer.StatusCode < 400 {
		p.good, p.bad = p.good+1, 0
	} else {
		p.good, p.bad = 0, p.bad+1
	}
}

// passed is a readiness probe's verdict.
func (p *prober) passed(ctx context.Context, started time.Time) bool {
	p.ask(ctx, started)
	if p.good >= max(p.probe.SuccessThreshold, 1) {
		p.state = true
	}
	if p.bad >= max(p.probe.FailureThreshold, 1) {
		p.state = false
	}
	return p.state
}

// failed is a liveness probe's verdict; a pod without one never fails.
func (p *prober) failed(ctx context.Context, started time.Time) bool {
	if p == nil {
		return false
	}
	p.ask(ctx, started)
	return p.bad >= max(p.probe.FailureThreshold, 1)
}
