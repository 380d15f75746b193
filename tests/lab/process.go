package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"sync"
	"syscall"
	"time"
)

// stopGrace is how long a process may take after SIGTERM before it is killed. istiod drains for some seconds.
const stopGrace = 5 * time.Second

// supervisor starts the lab's processes, keeps their logs, and stops them in reverse order.
type supervisor struct {
	dir     string
	mu      sync.Mutex
	running map[string]*process
	order   []string
}

type process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

func newSupervisor(dir string) (*supervisor, error) {
	return &supervisor{dir: dir, running: map[string]*process{}}, os.MkdirAll(filepath.Join(dir, "logs"), 0o755)
}

// logPath is where a process writes; its name's slashes become dashes.
func logPath(dir, name string) string {
	flat := []byte(name)
	for i := range flat {
		if flat[i] == '/' {
			flat[i] = '-'
		}
	}
	return filepath.Join(dir, "logs", string(flat)+".log")
}

// start runs a command under a name that is unique among the living.
func (s *supervisor) start(name string, cmd *exec.Cmd) (*process, error) {
	log, err := os.OpenFile(logPath(s.dir, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	p := &process{name: name, cmd: cmd, done: make(chan struct{})}
	s.mu.Lock()
	s.running[name] = p
	s.order = append(s.order, name)
	s.mu.Unlock()
	go func() {
		p.err = cmd.Wait()
		s.mu.Lock()
		if s.running[name] == p {
			delete(s.running, name)
		}
		s.mu.Unlock()
		close(p.done)
	}()
	return p, nil
}

// signal reaches a process by name; the whole process group gets it.
func (s *supervisor) signal(name string, signal syscall.Signal) error {
	s.mu.Lock()
	p, found := s.running[name]
	s.mu.Unlock()
	if !found {
		return fmt.Errorf("no process is named %q", name)
	}
	return syscall.Kill(-p.cmd.Process.Pid, signal)
}

func (s *supervisor) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := make([]string, 0, len(s.running))
	for name := range s.running {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// stop asks a process to end, and makes it end after the grace.
func (p *process) stop(grace time.Duration) {
	group := -p.cmd.Process.Pid
	// A stopped process would not see SIGTERM before SIGCONT.
	if err := errors.Join(syscall.Kill(group, syscall.SIGTERM), syscall.Kill(group, syscall.SIGCONT)); err != nil {
		return
	}
	select {
	case <-p.done:
	case <-time.After(grace):
		if syscall.Kill(group, syscall.SIGKILL) == nil {
			<-p.done
		}
	}
}

// stopAll ends everything, youngest first: pods, then controllers, then API servers, then etcd.
func (s *supervisor) stopAll() {
	s.mu.Lock()
	var young []*process
	for i := len(s.order) - 1; i >= 0; i-- {
		if p, living := s.running[s.order[i]]; living {
			young = append(young, p)
			delete(s.running, s.order[i])
		}
	}
	s.mu.Unlock()
	for _, p := range young {
		p.stop(stopGrace)
	}
}
