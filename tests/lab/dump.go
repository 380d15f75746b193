package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sort"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// notDumped are kinds that say nothing about the state: they tell what happened, or are views of other objects.
var notDumped = []string{"events", "componentstatuses", "bindings", "apiservices", "flowschemas", "prioritylevelconfigurations"}

// door is a connection to one cluster of a running lab.
type door struct {
	name      string
	discovery discovery.DiscoveryInterface
	dynamic   dynamic.Interface
}

// doors opens every cluster of a running lab. The caller must be inside the lab's network.
func doors(s state) ([]door, error) {
	var all []door
	for _, c := range s.Clusters {
		config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
		if err != nil {
			return nil, err
		}
		config.QPS, config.Burst = 200, 400
		// Deprecated kinds are part of the state; their warnings are noise here.
		config.WarningHandler = rest.NoWarnings{}
		found, err := discovery.NewDiscoveryClientForConfig(config)
		if err != nil {
			return nil, err
		}
		client, err := dynamic.NewForConfig(config)
		if err != nil {
			return nil, err
		}
		all = append(all, door{c.Name, found, client})
	}
	return all, nil
}

// enter starts this very command again inside the lab's network, unless it is there already.
func enter(name, command string, args []string) (entered bool, err error) {
	const mark = "MESHWRIGHT_LAB_INSIDE"
	if os.Getenv(mark) == name {
		return true, nil
	}
	if err := os.Setenv(mark, name); err != nil {
		return false, err
	}
	self, err := os.Executable()
	if err != nil {
		return false, err
	}
	return false, execInside(append([]string{"--name", name, "--", self, command}, args...))
}

// kinds lists what can be both listed and watched in a cluster, each kind once, in its preferred version.
func (d door) kinds() ([]schema.GroupVersionResource, error) {
	lists, err := d.discovery.ServerPreferredResources()
	// A kind whose own server is gone is reported with the rest of the answer.
	if err != nil && !discovery.IsGroupDiscoveryFailedError(err) {
		return nil, err
	}
	var all []schema.GroupVersionResource
	for _, list := range lists {
		version, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, err
		}
		for _, kind := range list.APIResources {
			if slices.Contains(kind.Verbs, "list") && slices.Contains(kind.Verbs, "watch") && !slices.Contains(notDumped, kind.Name) {
				all = append(all, version.WithResource(kind.Name))
			}
		}
	}
	return all, nil
}

func dump(args []string) error {
	flags, name := labFlags("dump")
	normal := flags.Bool("normal", false, "remove the fields that differ between two dumps of the same state")
	if err := flags.Parse(args); err != nil {
		return err
	}
	s, err := readState(labDir(*name))
	if err != nil {
		return err
	}
	if entered, err := enter(*name, "dump", args); !entered {
		return err
	}
	clusters, err := doors(s)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	for _, d := range clusters {
		lines, err := d.dump(context.Background(), *normal)
		if err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
		for _, line := range lines {
			fmt.Fprintln(out, line)
		}
	}
	return out.Flush()
}

func (d door) dump(ctx context.Context, normal bool) ([]string, error) {
	kinds, err := d.kinds()
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, kind := range kinds {
		list, err := d.dynamic.Resource(kind).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, fmt.Errorf("listing %s: %w", kind.Resource, err)
		}
		for _, item := range list.Items {
			line, err := d.line(item, normal)
			if err != nil {
				return nil, err
			}
			lines = append(lines, line)
		}
	}
	sort.Strings(lines)
	return lines, nil
}

// line is "cluster kind namespace/name {object}": sorted lines of two dumps can be compared by diff.
func (d door) line(item unstructured.Unstructured, normal bool) (string, error) {
	if normal {
		if err := normalize(item.Object, item.GetKind()); err != nil {
			return "", err
		}
	}
	text, err := json.Marshal(item.Object)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s %s %s/%s %s", d.name, item.GetKind(), item.GetNamespace(), item.GetName(), text), nil
}

// normalize removes the committed list's fields from one object.
func normalize(object map[string]any, kind string) error {
	for _, rule := range strings.Split(volatileFields, "\n") {
		if rule = strings.TrimSpace(rule); rule == "" || strings.HasPrefix(rule, "#") {
			continue
		}
		if only, path, limited := strings.Cut(rule, ":"); limited {
			if only != kind {
				continue
			}
			rule = path
		}
		removePath(object, splitPath(rule))
	}
	return nil
}

// splitPath cuts at dots that no backslash precedes.
func splitPath(path string) []string {
	var parts []string
	for _, part := range strings.Split(strings.ReplaceAll(path, `\.`, "\x00"), ".") {
		parts = append(parts, strings.ReplaceAll(part, "\x00", "."))
	}
	return parts
}

func removePath(object map[string]any, path []string) {
	name, every := strings.CutSuffix(path[0], "[]")
	if len(path) == 1 {
		delete(object, name)
		return
	}
	if every {
		list, _ := object[name].([]any)
		for _, element := range list {
			if inner, isMap := element.(map[string]any); isMap {
				removePath(inner, path[1:])
			}
		}
		return
	}
	if inner, isMap := object[name].(map[string]any); isMap {
		removePath(inner, path[1:])
		if len(inner) == 0 {
			delete(object, name)
		}
	}
}

// gone tells that a kind has vanished, as CRDs do.
func gone(err error) bool {
	return meta.IsNoMatchError(err) || errors.Is(err, context.Canceled)
}
