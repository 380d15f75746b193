package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// containerCommand is how the agent starts itself inside a pod's own mount namespace.
const containerCommand = "container"

type bindMount struct{ From, To string }

// containerSpec is what the process inside the mount namespace needs to become the container.
type containerSpec struct {
	Root, Binary string
	Args, Env    []string
	Mounts       []bindMount
}

func containerSpace() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
}

// container builds the pod's root folder, with the volumes at their true paths, and turns into the program.
func container(args []string) error {
	text, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	var spec containerSpec
	if err := json.Unmarshal(text, &spec); err != nil {
		return err
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := os.MkdirAll(spec.Root, 0o755); err != nil {
		return err
	}
	if err := syscall.Mount("tmpfs", spec.Root, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("root folder: %w", err)
	}
	const binary = "/usr/local/bin/program"
	mounts := []bindMount{{spec.Binary, binary}, {"/dev", "/dev"}, {"/proc", "/proc"}}
	// The binaries were linked on this machine against its own C library.
	for _, folder := range []string{"/lib", "/lib64", "/usr/lib"} {
		if _, err := os.Stat(folder); err == nil {
			mounts = append(mounts, bindMount{folder, folder})
		}
	}
	mounts = append(mounts, spec.Mounts...)
	for _, mount := range mounts {
		if err := bind(mount.From, filepath.Join(spec.Root, mount.To)); err != nil {
			return fmt.Errorf("mounting %s: %w", mount.To, err)
		}
	}
	if err := os.MkdirAll(filepath.Join(spec.Root, "tmp"), 0o777); err != nil {
		return err
	}
	// istiod wants the file to be there; the lab has no name server, and needs none.
	if err := os.WriteFile(filepath.Join(spec.Root, "etc", "resolv.conf"), []byte("nameserver 127.0.0.1\n"), 0o644); err != nil {
		return err
	}
	if err := syscall.Chroot(spec.Root); err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	return syscall.Exec(binary, append([]string{"program"}, spec.Args...), spec.Env)
}

func bind(from, to string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	if info.IsDir() {
		err = os.MkdirAll(to, 0o755)
	} else if err = os.MkdirAll(filepath.Dir(to), 0o755); err == nil {
		err = os.WriteFile(to, nil, 0o755)
	}
	if err != nil {
		return err
	}
	return syscall.Mount(from, to, "", syscall.MS_BIND|syscall.MS_REC, "")
}

var variable = regexp.MustCompile(`\$\(([A-Za-z_][A-Za-z0-9_]*)\)`)

// environmentOf resolves a container's environment the way a kubelet does, and adds the API server's address.
func environmentOf(ctx context.Context, c *cluster, object *corev1.Pod, address string) ([]string, error) {
	values := map[string]string{
		"KUBERNETES_SERVICE_HOST": c.address, "KUBERNETES_SERVICE_PORT": "6443", "HOME": "/tmp", "PATH": "/usr/local/bin",
		// The lab's Envoys are vanilla builds, which refuse what only Istio's own build knows.
		"PILOT_ENABLE_METADATA_EXCHANGE": "false", "PILOT_ENABLE_ALPN_FILTER": "false",
	}
	order := []string{"KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "HOME", "PATH", "PILOT_ENABLE_METADATA_EXCHANGE", "PILOT_ENABLE_ALPN_FILTER"}
	for _, entry := range object.Spec.Containers[0].Env {
		value := variable.ReplaceAllStringFunc(entry.Value, func(match string) string {
			if known, found := values[match[2:len(match)-1]]; found {
				return known
			}
			return match
		})
		if entry.ValueFrom != nil {
			resolved, found, err := resolve(ctx, c, object, address, entry.ValueFrom)
			if err != nil {
				return nil, fmt.Errorf("variable %s: %w", entry.Name, err)
			}
			if !found {
				continue
			}
			value = resolved
		}
		if _, seen := values[entry.Name]; !seen {
			order = append(order, entry.Name)
		}
		values[entry.Name] = value
	}
	environment := make([]string, 0, len(order))
	for _, name := range order {
		environment = append(environment, name+"="+values[name])
	}
	return environment, nil
}

func resolve(ctx context.Context, c *cluster, object *corev1.Pod, address string, from *corev1.EnvVarSource) (value string, found bool, err error) {
	switch {
	case from.FieldRef != nil:
		value, err := field(object, address, from.FieldRef.FieldPath)
		return value, true, err
	case from.ResourceFieldRef != nil:
		value, err := resourceValue(object, from.ResourceFieldRef)
		return value, true, err
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		config, err := c.client.CoreV1().ConfigMaps(object.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err != nil {
			return "", false, ignoreOptional(err, ref.Optional)
		}
		value, found := config.Data[ref.Key]
		return value, found, nil
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		secret, err := c.client.CoreV1().Secrets(object.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err != nil {
			return "", false, ignoreOptional(err, ref.Optional)
		}
		value, found := secret.Data[ref.Key]
		return string(value), found, nil
	}
	return "", false, fmt.Errorf("this source of a value is not known here")
}

// field reads what the downward API offers.
func field(object *corev1.Pod, address, path string) (string, error) {
	switch path {
	case "metadata.name":
		return object.Name, nil
	case "metadata.namespace":
		return object.Namespace, nil
	case "metadata.uid":
		return string(object.UID), nil
	case "spec.nodeName":
		return object.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return object.Spec.ServiceAccountName, nil
	case "status.podIP":
		return address, nil
	case "status.hostIP":
		return nodeAddress, nil
	}
	for prefix, values := range map[string]map[string]string{"metadata.labels['": object.Labels, "metadata.annotations['": object.Annotations} {
		if key, ok := strings.CutPrefix(path, prefix); ok {
			return values[strings.TrimSuffix(key, "']")], nil
		}
	}
	return "", fmt.Errorf("field %q is not known here", path)
}

// resourceValue is a limit of the container, or what the node has where there is no limit.
func resourceValue(object *corev1.Pod, ref *corev1.ResourceFieldSelector) (string, error) {
	limits := object.Spec.Containers[0].Resources.Limits
	switch ref.Resource {
	case "limits.cpu":
		if limit, set := limits[corev1.ResourceCPU]; set {
			return strconv.FormatInt(limit.Value(), 10), nil
		}
		return strconv.Itoa(runtime.NumCPU()), nil
	case "limits.memory":
		if limit, set := limits[corev1.ResourceMemory]; set {
			return strconv.FormatInt(limit.Value(), 10), nil
		}
		return strconv.FormatInt(8<<30, 10), nil
	}
	return "", fmt.Errorf("resource %q is not known here", ref.Resource)
}
