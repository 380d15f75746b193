package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
)

// labNetwork is routed to the loopback device inside the lab: every address in it can be bound, none leaves the machine.
const labNetwork = "10.0.0.0/8"

// spaceFlags put everything that the lab starts into namespaces that end with its first process.
const spaceFlags = syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID

// newSpace makes a command start as the first process of a private user, network, mount and process namespace.
func newSpace(cmd *exec.Cmd, userNamespace bool) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: spaceFlags, Setsid: true}
	if !userNamespace {
		return
	}
	cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
	if os.Getuid() == 0 {
		// Root may map a whole range: files of other users stay readable as theirs.
		whole := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 65536}}
		cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings = whole, whole
		cmd.SysProcAttr.GidMappingsEnableSetgroups = true
		return
	}
	cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
	cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
}

// probeSpace reports whether a user namespace can be had; root may do without one.
func probeSpace() (userNamespace bool, err error) {
	try := func(userNamespace bool) error {
		cmd := exec.Command("/proc/self/exe", insideCommand, "--probe")
		newSpace(cmd, userNamespace)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))
		}
		return nil
	}
	withUser := try(true)
	if withUser == nil {
		return true, nil
	}
	if os.Getuid() == 0 && try(false) == nil {
		return false, nil
	}
	return false, fmt.Errorf("this machine does not allow the private namespaces that a lab lives in (%w).\n%s", withUser, spaceAdvice())
}

// spaceAdvice names the switch that stands in the way, as far as it can be read.
func spaceAdvice() string {
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join("/proc/sys", name))
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(text))
	}
	switch {
	case read("user/max_user_namespaces") == "0":
		return "What helps: as root, sysctl -w user.max_user_namespaces=15000"
	case read("kernel/unprivileged_userns_clone") == "0":
		return "What helps: as root, sysctl -w kernel.unprivileged_userns_clone=1"
	case read("kernel/apparmor_restrict_unprivileged_userns") == "1":
		return "What helps: as root, sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
	}
	return "What helps: run as root, or in a container started with --privileged (or --security-opt seccomp=unconfined --cap-add SYS_ADMIN,NET_ADMIN)."
}

func probeCommand(args []string) error {
	if len(args) > 0 {
		return errUsage
	}
	userNamespace, err := probeSpace()
	if err != nil {
		return err
	}
	for _, tool := range []string{"go", "nsenter"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is missing: install Go 1.26 or newer, and util-linux for nsenter", tool)
		}
	}
	fmt.Printf("this machine can run a lab (user namespace: %t)\n", userNamespace)
	return nil
}

// settleSpace does what the first process must do before anything else starts.
func settleSpace() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	// Some sandboxes mask parts of /proc and then refuse a new one; nothing here needs it, only metrics do.
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		fmt.Fprintln(os.Stderr, "lab: keeping the outer /proc:", err)
	}
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("finding the loopback device: %w", err)
	}
	if err := netlink.LinkSetUp(loopback); err != nil {
		return fmt.Errorf("bringing up the loopback device: %w", err)
	}
	_, network, err := net.ParseCIDR(labNetwork)
	if err != nil {
		return err
	}
	const localTable = 255
	route := netlink.Route{LinkIndex: loopback.Attrs().Index, Dst: network, Type: syscall.RTN_LOCAL, Table: localTable, Scope: netlink.SCOPE_HOST}
	if err := netlink.RouteAdd(&route); err != nil {
		return fmt.Errorf("routing %s to the loopback device: %w", labNetwork, err)
	}
	return nil
}

// execInside replaces this process by a command in the lab's network, with listeners bound outside.
func execInside(args []string) error {
	flags, name := labFlags("exec")
	var listen []string
	flags.Func("listen", "an address to bind outside and hand over (repeatable)", func(address string) error {
		listen = append(listen, address)
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return errUsage
	}
	running, err := readState(labDir(*name))
	if err != nil {
		return err
	}
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		return errors.New("nsenter is missing: install util-linux")
	}
	environment := os.Environ()
	for index, address := range listen {
		if err := handOver(address, index); err != nil {
			return err
		}
	}
	if len(listen) > 0 {
		environment = append(environment, "LISTEN_FDS="+strconv.Itoa(len(listen)), "LISTEN_PID="+strconv.Itoa(os.Getpid()))
	}
	argv := []string{"nsenter", "-t", strconv.Itoa(running.Pid), "-n", "--wd=."}
	if running.UserNamespace {
		argv = append(argv, "-U", "--preserve-credentials")
	}
	argv = append(append(argv, "--"), flags.Args()...)
	return syscall.Exec(nsenter, argv, environment)
}

// handOver binds an address and leaves it open at the descriptor that systemd's protocol gives to its index.
func handOver(address string, index int) error {
	const firstDescriptor = 3
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	file, err := listener.(*net.TCPListener).File()
	if err != nil {
		return err
	}
	if int(file.Fd()) == firstDescriptor+index {
		_, _, errno := syscall.Syscall(syscall.SYS_FCNTL, file.Fd(), syscall.F_SETFD, 0)
		if errno != 0 {
			return errno
		}
		return nil
	}
	return syscall.Dup3(int(file.Fd()), firstDescriptor+index, 0)
}

// state is what a running lab says of itself, in state.json.
type state struct {
	Name          string         `json:"name"`
	Pid           int            `json:"pid"`
	UserNamespace bool           `json:"user_namespace"`
	Ready         bool           `json:"ready"`
	Clusters      []clusterState `json:"clusters"`
	Helm          string         `json:"helm"`
	// Kubernetes is the multi-call binary: its first argument "kubectl" makes it that.
	Kubernetes string         `json:"kubernetes"`
	Releases   []releaseState `json:"releases"`
	Processes  []string       `json:"processes"`
}

type clusterState struct {
	Name       string `json:"name"`
	Role       string `json:"role"`
	Kubeconfig string `json:"kubeconfig"`
	Address    string `json:"address"`
	Version    string `json:"version"`
	AuditLog   string `json:"audit_log"`
}

// releaseState points at one Istio release: its charts for the catalogue and istioctl as an outside opinion.
type releaseState struct {
	Version  string `json:"version"`
	Charts   string `json:"charts"`
	Istioctl string `json:"istioctl"`
}

func readState(dir string) (state, error) {
	var s state
	text, err := os.ReadFile(filepath.Join(dir, "state.json"))
	if errors.Is(err, os.ErrNotExist) {
		return s, fmt.Errorf("no lab runs in %s: start one with 'lab up'", dir)
	}
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("state of the lab in %s: %w", dir, err)
	}
	return s, nil
}

func writeState(dir string, s state) error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	fresh := filepath.Join(dir, "state.json.fresh")
	if err := os.WriteFile(fresh, text, 0o644); err != nil {
		return err
	}
	return os.Rename(fresh, filepath.Join(dir, "state.json"))
}
