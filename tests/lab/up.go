package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// insideCommand is how the lab starts itself as the first process of its namespaces.
const insideCommand = "inside"

// startLimit bounds 'lab up' after the builds; a warm start takes a tenth of it.
const startLimit = 5 * time.Minute

const maxUserClusters = 200

func up(args []string) error {
	flags, name := labFlags("up")
	users := flags.Int("user-clusters", 2, "how many user clusters")
	var later []string
	flags.Func("later", "a program that is still being built elsewhere (repeatable)", func(name string) error {
		later = append(later, name)
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || *users < 0 || *users > maxUserClusters {
		return fmt.Errorf("--user-clusters is a number from 0 to %d", maxUserClusters)
	}
	dir := labDir(*name)
	if running, err := readState(dir); err == nil && alive(running, dir) {
		return fmt.Errorf("the lab %q runs already: 'lab down --name %s' ends it", *name, *name)
	}
	userNamespace, err := probeSpace()
	if err != nil {
		return err
	}
	for _, p := range programs {
		if p.beside || contains(later, p.name) {
			continue
		}
		if _, err := p.ensure(); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return startInside(dir, state{Name: *name, UserNamespace: userNamespace}, *users)
}

// startInside starts the first process and waits until it says that everything is ready.
func startInside(dir string, s state, users int) error {
	out, err := os.Create(filepath.Join(dir, "lab.log"))
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command("/proc/self/exe", insideCommand, dir, strconv.Itoa(users))
	cmd.Stdout, cmd.Stderr = out, out
	newSpace(cmd, s.UserNamespace)
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	s.Pid = cmd.Process.Pid
	if err := writeState(dir, s); err != nil {
		return errors.Join(err, cmd.Process.Kill())
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for time.Since(start) < startLimit {
		select {
		case err := <-ended:
			return fmt.Errorf("the lab ended while it started (%w); its log says:\n%s", err, tail(out.Name(), 30))
		case <-time.After(50 * time.Millisecond):
		}
		if now, err := readState(dir); err == nil && now.Ready {
			fmt.Fprintf(os.Stderr, "lab: %d clusters are up after %.1f s\n", len(now.Clusters), time.Since(start).Seconds())
			return nil
		}
	}
	return errors.Join(fmt.Errorf("the lab was not ready after %s; its log says:\n%s", startLimit, tail(out.Name(), 30)), cmd.Process.Kill())
}

func tail(file string, count int) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-count):], "\n")
}

// alive guards against a process number that belongs to somebody else by now.
func alive(s state, dir string) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", s.Pid))
	return err == nil && strings.Contains(string(text), insideCommand+"\x00"+dir)
}

func down(args []string) error {
	flags, name := labFlags("down")
	if err := flags.Parse(args); err != nil {
		return err
	}
	dir := labDir(*name)
	running, err := readState(dir)
	if err != nil {
		return err
	}
	if alive(running, dir) {
		if err := syscall.Kill(running.Pid, syscall.SIGTERM); err != nil {
			return err
		}
		// The kernel ends whatever is left in the process namespace together with its first process.
		for deadline := time.Now().Add(time.Minute); alive(running, dir); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				if err := syscall.Kill(running.Pid, syscall.SIGKILL); err != nil {
					return err
				}
			}
		}
	}
	return os.RemoveAll(dir)
}

// inside is the lab's first process: it settles the namespaces, starts everything, and ends everything.
func inside(args []string) error {
	if err := settleSpace(); err != nil {
		return err
	}
	if len(args) == 1 && args[0] == "--probe" {
		return nil
	}
	dir := args[0]
	users, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	supervisor, err := newSupervisor(dir)
	if err != nil {
		return err
	}
	defer supervisor.stopAll()
	clusters, err := startClusters(ctx, supervisor, dir, users)
	if err != nil {
		return err
	}
	agent, err := startAgent(ctx, supervisor, clusters[0])
	if err != nil {
		return err
	}
	for _, user := range clusters[1:] {
		if err := startProxies(ctx, supervisor, user); err != nil {
			return err
		}
	}
	if err := startControl(ctx, supervisor, dir); err != nil {
		return err
	}
	if err := announce(dir, clusters); err != nil {
		return err
	}
	<-ctx.Done()
	agent.stop()
	return nil
}

func announce(dir string, clusters []*cluster) error {
	// The launcher writes the process number; it may come a moment after this process is ready.
	var s state
	for s.Pid == 0 {
		var err error
		if s, err = readState(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			time.Sleep(10 * time.Millisecond)
		}
	}
	for _, c := range clusters {
		s.Clusters = append(s.Clusters, c.state())
	}
	for _, p := range programs {
		home, err := p.home()
		if err != nil {
			return err
		}
		binary := filepath.Join(home, p.name)
		if version, isIstio := strings.CutPrefix(p.name, "istio-"); isIstio {
			s.Releases = append(s.Releases, releaseState{Version: version, Charts: filepath.Join(filepath.Dir(binary), "charts"), Istioctl: binary})
		}
		switch p.name {
		case "helm":
			s.Helm = binary
		case "kubernetes":
			s.Kubernetes = binary
		}
	}
	s.Ready = true
	return writeState(dir, s)
}

// startControl answers the commands that need the processes themselves, on a socket in the lab's directory.
func startControl(ctx context.Context, supervisor *supervisor, dir string) error {
	listener, err := net.Listen("unix", filepath.Join(dir, "control.sock"))
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /processes", func(w http.ResponseWriter, _ *http.Request) {
		if err := json.NewEncoder(w).Encode(supervisor.names()); err != nil {
			fmt.Fprintln(os.Stderr, "lab: answering a client:", err)
		}
	})
	mux.HandleFunc("POST /signal", func(w http.ResponseWriter, r *http.Request) {
		number, err := strconv.Atoi(r.URL.Query().Get("number"))
		if err == nil {
			err = supervisor.signal(r.URL.Query().Get("process"), syscall.Signal(number))
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
		}
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			fmt.Fprintln(os.Stderr, "lab: control socket:", err)
		}
	}()
	context.AfterFunc(ctx, func() { server.Close() })
	return nil
}

// control calls a running lab over its socket.
func control(dir, method, path string) (*http.Response, error) {
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(dir, "control.sock"))
		},
	}}
	request, err := http.NewRequest(method, "http://lab"+path, nil)
	if err != nil {
		return nil, err
	}
	return client.Do(request)
}

func status(args []string) error {
	flags, name := labFlags("status")
	output := flags.String("o", "table", "table or json")
	if err := flags.Parse(args); err != nil {
		return err
	}
	dir := labDir(*name)
	s, err := readState(dir)
	if err != nil {
		return err
	}
	if !alive(s, dir) {
		return fmt.Errorf("the lab %q has died; %s says why, 'lab down' clears it away", *name, filepath.Join(dir, "lab.log"))
	}
	answer, err := control(dir, "GET", "/processes")
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if err := json.NewDecoder(answer.Body).Decode(&s.Processes); err != nil {
		return err
	}
	switch *output {
	case "json":
		encoder := json.NewEncoder(os.Stdout)
		encoder.SetIndent("", "  ")
		return encoder.Encode(s)
	case "table":
		table := tabwriter.NewWriter(os.Stdout, 2, 0, 2, ' ', 0)
		fmt.Fprintln(table, "CLUSTER\tROLE\tADDRESS\tVERSION\tKUBECONFIG")
		for _, c := range s.Clusters {
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", c.Name, c.Role, c.Address, c.Version, c.Kubeconfig)
		}
		return table.Flush()
	}
	return fmt.Errorf("-o %s: choose table or json", *output)
}

func logs(args []string) error {
	flags, name := labFlags("logs")
	if err := flags.Parse(args); err != nil {
		return err
	}
	dir := labDir(*name)
	if flags.NArg() == 1 {
		text, err := os.ReadFile(logPath(dir, flags.Arg(0)))
		if err != nil {
			return fmt.Errorf("%w: 'lab logs' lists what there is", err)
		}
		_, err = os.Stdout.Write(text)
		return err
	}
	entries, err := os.ReadDir(filepath.Join(dir, "logs"))
	if err != nil {
		return err
	}
	for _, entry := range entries {
		fmt.Println(strings.TrimSuffix(entry.Name(), ".log"))
	}
	return nil
}

var signalNumbers = map[string]syscall.Signal{
	"KILL": syscall.SIGKILL, "TERM": syscall.SIGTERM, "STOP": syscall.SIGSTOP, "CONT": syscall.SIGCONT,
}

func sendSignal(args []string) error {
	flags, name := labFlags("signal")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 2 {
		return errUsage
	}
	number, known := signalNumbers[flags.Arg(1)]
	if !known {
		return fmt.Errorf("signal %q: choose KILL, TERM, STOP or CONT", flags.Arg(1))
	}
	answer, err := control(labDir(*name), "POST", fmt.Sprintf("/signal?process=%s&number=%d", flags.Arg(0), number))
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("no process is named %q: 'lab status -o json' lists them", flags.Arg(0))
	}
	return nil
}
