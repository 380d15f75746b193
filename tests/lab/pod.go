package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// volumeRefresh is how soon a changed Secret, ConfigMap or token reaches the files; a kubelet takes about a minute.
const volumeRefresh = 5 * time.Second

// pod runs one pod: volumes, process, probes, restarts, status, graceful end.
type pod struct {
	agent   *agent
	object  *corev1.Pod
	address string
	cancel  context.CancelFunc
	ending  chan struct{}
	endOnce sync.Once
	grace   time.Duration
	// Written by run only.
	ready    bool
	restarts int32
	started  time.Time
}

func newPod(a *agent, object *corev1.Pod, address string) *pod {
	return &pod{agent: a, object: object, address: address, cancel: func() {}, ending: make(chan struct{})}
}

// end tells the runner that the pod is to go; the first caller's grace counts.
func (p *pod) end(object *corev1.Pod) {
	p.endOnce.Do(func() {
		p.grace = 30 * time.Second
		if seconds := object.DeletionGracePeriodSeconds; seconds != nil {
			p.grace = time.Duration(*seconds) * time.Second
		}
		close(p.ending)
	})
}

func (p *pod) processName() string {
	return fmt.Sprintf("%s/pod/%s/%s", p.agent.cluster.name, p.object.Namespace, p.object.Name)
}

// run lives as long as the pod does.
func (p *pod) run(parent context.Context) {
	ctx, cancel := context.WithCancel(parent)
	p.cancel = cancel
	defer cancel()
	defer p.remove(parent)
	launch, err := launchOf(p.object, p.address)
	if err != nil {
		p.report(ctx, waiting("ErrImagePull", err.Error()))
		<-either(ctx, p.ending)
		return
	}
	volumes := newVolumes(p.agent.cluster.client, p.object, p.agent.podDir(p.object))
	for {
		err := volumes.write(ctx)
		if err == nil {
			break
		}
		p.report(ctx, waiting("ContainerCreating", err.Error()))
		select {
		case <-either(ctx, p.ending):
			return
		case <-time.After(300 * time.Millisecond):
		}
	}
	go volumes.keepFresh(ctx)
	for crashes := 0; ; crashes++ {
		if again := p.live(ctx, launch); !again {
			return
		}
		p.restarts++
		p.ready = false
		p.report(ctx, waiting("CrashLoopBackOff", fmt.Sprintf("the process ended; 'lab logs %s' says why", p.processName())))
		select {
		case <-either(ctx, p.ending):
			return
		case <-time.After(restartDelay(crashes)):
		}
	}
}

// live runs the process once. It answers false when the pod is to end rather than to start again.
func (p *pod) live(ctx context.Context, launch launch) bool {
	environment, err := environmentOf(ctx, p.agent.cluster, p.object, p.address)
	if err != nil {
		p.report(ctx, waiting("CreateContainerConfigError", err.Error()))
		return true
	}
	root := filepath.Join(p.agent.podDir(p.object), "root")
	spec := containerSpec{Root: root, Binary: launch.binary, Args: launch.args, Env: environment}
	for _, mount := range p.object.Spec.Containers[0].VolumeMounts {
		spec.Mounts = append(spec.Mounts, bindMount{filepath.Join(p.agent.podDir(p.object), "volumes", mount.Name, mount.SubPath), mount.MountPath})
	}
	specFile := filepath.Join(p.agent.podDir(p.object), "container.json")
	if err := writeJSON(specFile, spec); err != nil {
		p.report(ctx, waiting("RunContainerError", err.Error()))
		return true
	}
	cmd := exec.Command("/proc/self/exe", containerCommand, specFile)
	cmd.SysProcAttr = containerSpace()
	process, err := p.agent.supervisor.start(p.processName(), cmd)
	if err != nil {
		p.report(ctx, waiting("RunContainerError", err.Error()))
		return true
	}
	p.started = time.Now()
	return p.watch(ctx, process)
}

// watch probes a running process until it ends or the pod does.
func (p *pod) watch(ctx context.Context, process *process) bool {
	container := p.object.Spec.Containers[0]
	readiness, liveness := newProber(container.ReadinessProbe, p.address), newProber(container.LivenessProbe, p.address)
	p.ready = readiness == nil
	p.report(ctx, p.runningState())
	ticker := time.NewTicker(250 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-process.done:
			return true
		case <-either(ctx, p.ending):
			p.finish(ctx, process)
			return false
		case <-ticker.C:
		}
		if liveness.failed(ctx, p.started) {
			process.stop(p.grace)
			return true
		}
		if readiness == nil {
			continue
		}
		if now := readiness.passed(ctx, p.started); now != p.ready {
			p.ready = now
			p.report(ctx, p.runningState())
		}
	}
}

// finish ends a pod's process as a kubelet does: what the container has to do before is a part of the grace.
func (p *pod) finish(ctx context.Context, process *process) {
	grace := p.grace
	if lifecycle := p.object.Spec.Containers[0].Lifecycle; lifecycle != nil && lifecycle.PreStop != nil && lifecycle.PreStop.Sleep != nil {
		nap := min(time.Duration(lifecycle.PreStop.Sleep.Seconds)*time.Second, grace)
		grace -= nap
		select {
		case <-time.After(nap):
		case <-process.done:
		case <-ctx.Done():
		}
	}
	process.stop(grace)
}

func (p *pod) runningState() corev1.ContainerState {
	return corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(p.started)}}
}

func waiting(reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
}

// report writes the whole status; a pod that is gone needs none.
func (p *pod) report(ctx context.Context, now corev1.ContainerState) {
	truth := map[bool]corev1.ConditionStatus{true: corev1.ConditionTrue, false: corev1.ConditionFalse}
	condition := func(kind corev1.PodConditionType, value bool) corev1.PodCondition {
		return corev1.PodCondition{Type: kind, Status: truth[value], LastTransitionTime: metav1.Now()}
	}
	container := p.object.Spec.Containers[0]
	running := now.Running != nil
	phase := corev1.PodPending
	if running || p.restarts > 0 {
		phase = corev1.PodRunning
	}
	status := corev1.PodStatus{
		Phase: phase, HostIP: nodeAddress, HostIPs: []corev1.HostIP{{IP: nodeAddress}}, PodIP: p.address, PodIPs: []corev1.PodIP{{IP: p.address}},
		StartTime: &p.object.CreationTimestamp,
		Conditions: []corev1.PodCondition{
			condition(corev1.PodScheduled, true), condition(corev1.PodInitialized, true),
			condition(corev1.ContainersReady, running && p.ready), condition(corev1.PodReady, running && p.ready),
		},
		ContainerStatuses: []corev1.ContainerStatus{{
			Name: container.Name, Image: container.Image, ImageID: container.Image, Ready: running && p.ready, Started: &running, RestartCount: p.restarts, State: now,
		}},
	}
	text, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": p.object.UID}, "status": status})
	if err == nil {
		_, err = p.agent.cluster.client.CoreV1().Pods(p.object.Namespace).Patch(ctx, p.object.Name, types.MergePatchType, text, metav1.PatchOptions{}, "status")
	}
	if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
		fmt.Fprintf(os.Stderr, "lab: status of %s: %v\n", p.processName(), err)
	}
}

// remove takes the pod's folder and, where the API server waits for the node's word, the pod itself.
func (p *pod) remove(ctx context.Context) {
	if ctx.Err() != nil {
		return
	}
	zero := int64(0)
	options := metav1.DeleteOptions{GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &p.object.UID}}
	err := p.agent.cluster.client.CoreV1().Pods(p.object.Namespace).Delete(ctx, p.object.Name, options)
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		fmt.Fprintf(os.Stderr, "lab: removing %s: %v\n", p.processName(), err)
	}
	if err := os.RemoveAll(p.agent.podDir(p.object)); err != nil {
		fmt.Fprintf(os.Stderr, "lab: removing the folder of %s: %v\n", p.processName(), err)
	}
}

// either closes when the context ends or the channel closes.
func either(ctx context.Context, channel <-chan struct{}) <-chan struct{} {
	select {
	case <-channel:
		return channel
	case <-ctx.Done():
		return ctx.Done()
	default:
	}
	both := make(chan struct{})
	go func() {
		defer close(both)
		select {
		case <-ctx.Done():
		case <-channel:
		}
	}()
	return both
}

// launch is what an image means here: a binary of the cache and its arguments.
type launch struct {
	binary string
	args   []string
}

// pilotImage matches the images of istiod: a tag begins with the community version, whatever build or variant follows.
var pilotImage = regexp.MustCompile(`(?:^|/)pilot:(\d+\.\d+\.\d+)(?:[.-].*)?$`)

func launchOf(object *corev1.Pod, address string) (launch, error) {
	if len(object.Spec.Containers) != 1 {
		return launch{}, fmt.Errorf("this node runs pods of one container, not of %d", len(object.Spec.Containers))
	}
	container := object.Spec.Containers[0]
	match := pilotImage.FindStringSubmatch(container.Image)
	if match == nil {
		return launch{}, fmt.Errorf("this node knows no image %q: only pilot:<version> of %s", container.Image, strings.Join(istioVersions(), ", "))
	}
	binary, err := mustProgram("istio-" + builtFor(match[1]))
	if err != nil {
		return launch{}, err
	}
	// All pods share one network namespace: each must bind its own address instead of every address.
	addresses := []string{
		"--httpAddr=" + address + ":8080", "--httpsAddr=" + address + ":15017", "--grpcAddr=" + address + ":15010",
		"--secureGRPCAddr=" + address + ":15012", "--monitoringAddr=" + address + ":15014", "--ctrlz_address=" + address,
	}
	args := append([]string{"pilot-discovery"}, container.Args...)
	return launch{binary, append(args, addresses...)}, nil
}

// builtFor names the build that plays a version: its own, or the lab's build of the same minor. Few patches can be had as
// modules, and an upgrade across a patch is about what changes around istiod: names, labels, images.
func builtFor(version string) string {
	minor := version[:strings.LastIndex(version, ".")+1]
	found := version
	for _, built := range istioVersions() {
		if built == version {
			return version
		}
		if strings.HasPrefix(built, minor) {
			found = built
		}
	}
	return found
}

func istioVersions() []string {
	var versions []string
	for _, p := range programs {
		if version, isIstio := strings.CutPrefix(p.name, "istio-"); isIstio {
			versions = append(versions, version)
		}
	}
	return versions
}

func writeJSON(file string, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return os.WriteFile(file, text, 0o600)
}
