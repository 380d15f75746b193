package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

const (
	nodeName    = "hosting-node"
	nodeAddress = "10.0.0.2"
	kubeletPort = 10250
)

// agent is the hosting cluster's only node: it runs pods of known images as processes, like a kubelet would.
type agent struct {
	cluster    *cluster
	supervisor *supervisor
	dir        string
	mu         sync.Mutex
	pods       map[types.UID]*pod
	born       int
}

func startAgent(ctx context.Context, supervisor *supervisor, c *cluster) (*agent, error) {
	a := &agent{cluster: c, supervisor: supervisor, dir: c.file("pods"), pods: map[types.UID]*pod{}}
	if err := os.MkdirAll(a.dir, 0o755); err != nil {
		return nil, err
	}
	if err := a.registerNode(ctx); err != nil {
		return nil, fmt.Errorf("registering the node: %w", err)
	}
	if err := a.serveKubelet(ctx); err != nil {
		return nil, err
	}
	mine := fields.OneTermEqualSelector("spec.nodeName", nodeName).String()
	factory := informers.NewSharedInformerFactoryWithOptions(c.client, 0, informers.WithTweakListOptions(func(options *metav1.ListOptions) {
		options.FieldSelector = mine
	}))
	_, err := factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { a.observe(ctx, object.(*corev1.Pod)) },
		UpdateFunc: func(_, object any) { a.observe(ctx, object.(*corev1.Pod)) },
		DeleteFunc: func(object any) {
			if last, isUnknown := object.(cache.DeletedFinalStateUnknown); isUnknown {
				object = last.Obj
			}
			a.forget(object.(*corev1.Pod).UID)
		},
	})
	if err != nil {
		return nil, err
	}
	factory.Start(ctx.Done())
	return a, startBalancer(ctx, c)
}

func (a *agent) registerNode(ctx context.Context) error {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName, Labels: map[string]string{"kubernetes.io/hostname": nodeName, "kubernetes.io/os": "linux"}}}
	if _, err := a.cluster.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
		return err
	}
	room := corev1.ResourceList{
		corev1.ResourceCPU: *resource.NewQuantity(64, resource.DecimalSI), corev1.ResourceMemory: resource.MustParse("256Gi"),
		corev1.ResourcePods: *resource.NewQuantity(110, resource.DecimalSI),
	}
	status := corev1.NodeStatus{
		Capacity: room, Allocatable: room,
		Addresses:       []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: nodeAddress}},
		DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: kubeletPort}},
		Conditions: []corev1.NodeCondition{{
			Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "AgentReady", LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now(),
		}},
		NodeInfo: corev1.NodeSystemInfo{OperatingSystem: "linux", Architecture: runtime.GOARCH, KubeletVersion: "v" + kubernetesVersion},
	}
	// A patch, because controllers write to a new node at the same moment and an update would lose to them.
	text, err := json.Marshal(map[string]any{"status": status})
	if err != nil {
		return err
	}
	_, err = a.cluster.client.CoreV1().Nodes().Patch(ctx, nodeName, types.MergePatchType, text, metav1.PatchOptions{}, "status")
	return err
}

// observe starts a runner for a new pod and tells a living one that its pod is to end.
func (a *agent) observe(ctx context.Context, object *corev1.Pod) {
	a.mu.Lock()
	defer a.mu.Unlock()
	runner, known := a.pods[object.UID]
	if !known {
		if object.Status.Phase == corev1.PodSucceeded || object.Status.Phase == corev1.PodFailed {
			return
		}
		a.born++
		runner = newPod(a, object.DeepCopy(), fmt.Sprintf("10.0.%d.%d", 64+a.born/250, 1+a.born%250))
		a.pods[object.UID] = runner
		go runner.run(ctx)
	}
	if object.DeletionTimestamp != nil {
		runner.end(object)
	}
}

func (a *agent) forget(uid types.UID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if runner, known := a.pods[uid]; known {
		runner.end(runner.object)
		delete(a.pods, uid)
	}
}

// find looks a living pod up for a port-forward or its logs.
func (a *agent) find(namespace, name string) (*pod, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, runner := range a.pods {
		if runner.object.Namespace == namespace && runner.object.Name == name {
			return runner, nil
		}
	}
	return nil, fmt.Errorf("pod %s/%s does not run on this node", namespace, name)
}

// stop waits for nothing: the supervisor ends the processes.
func (a *agent) stop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, runner := range a.pods {
		runner.cancel()
	}
}

// podDir holds a pod's volumes and its root folder.
func (a *agent) podDir(object *corev1.Pod) string { return filepath.Join(a.dir, string(object.UID)) }

// restartDelay grows with each crash, from a second to ten: the lab is impatient where a kubelet waits five minutes.
func restartDelay(crashes int) time.Duration {
	return min(time.Duration(1<<min(crashes, 4))*time.Second, 10*time.Second)
}
