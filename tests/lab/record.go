package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
)

// rediscover is how often the recorder looks for kinds that were not there before, such as Istio's own.
const rediscover = 2 * time.Second

// recorded is one line: what happened to which object, as its API server told it.
type recorded struct {
	Cluster string                     `json:"cluster"`
	Number  int64                      `json:"number"`
	At      time.Time                  `json:"at"`
	Type    string                     `json:"type"`
	Object  *unstructured.Unstructured `json:"object"`
}

type recorder struct {
	mu     sync.Mutex
	out    *bufio.Writer
	number int64
	failed error
}

func record(args []string) error {
	flags, name := labFlags("record")
	until := flags.String("until-file", "", "stop when this file exists")
	if err := flags.Parse(args); err != nil {
		return err
	}
	s, err := readState(labDir(*name))
	if err != nil {
		return err
	}
	if entered, err := enter(*name, "record", args); !entered {
		return err
	}
	clusters, err := doors(s)
	if err != nil {
		return err
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	r := &recorder{out: bufio.NewWriter(os.Stdout)}
	var watchers sync.WaitGroup
	for _, d := range clusters {
		watchers.Add(1)
		go func() {
			defer watchers.Done()
			r.cluster(ctx, d)
		}()
	}
	for ctx.Err() == nil {
		if _, err := os.Stat(*until); *until != "" && err == nil {
			cancel()
		}
		// Whoever started it may have died without a word.
		if !alive(s, labDir(*name)) {
			cancel()
		}
		time.Sleep(100 * time.Millisecond)
	}
	<-ctx.Done()
	watchers.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed != nil {
		return r.failed
	}
	return r.out.Flush()
}

// cluster watches each kind that there is, and each that comes.
func (r *recorder) cluster(ctx context.Context, d door) {
	watched := map[schema.GroupResource]bool{}
	// Once everything that was there has been told, a reader knows the whole state and can begin to judge.
	var listed sync.WaitGroup
	for first := true; ctx.Err() == nil; first = false {
		kinds, err := d.kinds()
		if err != nil {
			r.note(d.name, err)
		}
		for _, kind := range kinds {
			if !watched[kind.GroupResource()] {
				watched[kind.GroupResource()] = true
				listed.Add(1)
				go r.kind(ctx, d, kind, sync.OnceFunc(listed.Done))
			}
		}
		if first {
			go func() {
				listed.Wait()
				r.write(d.name, "SYNCED", &unstructured.Unstructured{Object: map[string]any{}})
			}()
		}
		select {
		case <-ctx.Done():
		case <-time.After(rediscover):
		}
	}
}

// kind lists once and then follows; a watch that ends is opened again where it ended, so that no event is missed.
func (r *recorder) kind(ctx context.Context, d door, kind schema.GroupVersionResource, told func()) {
	defer told()
	version := ""
	for ctx.Err() == nil {
		if version == "" {
			list, err := d.dynamic.Resource(kind).List(ctx, metav1.ListOptions{})
			if err != nil {
				if !gone(err) {
					r.note(d.name, err)
				}
				time.Sleep(rediscover)
				continue
			}
			for i := range list.Items {
				r.write(d.name, "PRESENT", &list.Items[i])
			}
			version = list.GetResourceVersion()
			told()
		}
		stream, err := d.dynamic.Resource(kind).Watch(ctx, metav1.ListOptions{ResourceVersion: version, AllowWatchBookmarks: true})
		if err != nil {
			time.Sleep(200 * time.Millisecond)
			continue
		}
		version = r.follow(ctx, d.name, stream, version)
	}
}

func (r *recorder) follow(ctx context.Context, cluster string, stream watch.Interface, version string) string {
	defer stream.Stop()
	for event := range stream.ResultChan() {
		object, isObject := event.Object.(*unstructured.Unstructured)
		if event.Type == watch.Error || !isObject {
			if ctx.Err() != nil {
				return version
			}
			// Too old a version: what lies between is lost to this watch and must be said.
			r.note(cluster, fmt.Errorf("a watch was cut: %v", event.Object))
			return ""
		}
		version = object.GetResourceVersion()
		if event.Type != watch.Bookmark {
			r.write(cluster, string(event.Type), object)
		}
	}
	return version
}

func (r *recorder) write(cluster, kind string, object *unstructured.Unstructured) {
	object.SetManagedFields(nil)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.number++
	text, err := json.Marshal(recorded{cluster, r.number, time.Now().UTC(), kind, object})
	if err == nil {
		_, err = r.out.Write(append(text, '\n'))
	}
	if err == nil {
		err = r.out.Flush()
	}
	if err != nil && r.failed == nil {
		r.failed = err
	}
}

func (r *recorder) note(cluster string, err error) {
	fmt.Fprintf(os.Stderr, "lab: recording %s: %v\n", cluster, err)
}
