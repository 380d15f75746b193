package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// proxyAnnotation asks for a real Envoy beside a pod that kwok plays: its sidecar, connected to the istiod that the
// injected pod names, over TLS and with the pod's own identity.
const proxyAnnotation = "lab.meshwright.dev/proxy"

// proxyTokenLife is the shortest that Kubernetes gives; the stream is authenticated once, when it is opened.
const proxyTokenLife = int64(3600)

// proxies runs the Envoys of one user cluster.
type proxies struct {
	cluster    *cluster
	supervisor *supervisor
	mu         sync.Mutex
	running    map[types.UID]context.CancelFunc
}

func startProxies(ctx context.Context, supervisor *supervisor, c *cluster) error {
	p := &proxies{cluster: c, supervisor: supervisor, running: map[types.UID]context.CancelFunc{}}
	if err := os.MkdirAll(c.file("proxies"), 0o755); err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(c.client, 0)
	_, err := factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { p.observe(ctx, object.(*corev1.Pod)) },
		UpdateFunc: func(_, object any) { p.observe(ctx, object.(*corev1.Pod)) },
		DeleteFunc: func(object any) {
			if last, isUnknown := object.(cache.DeletedFinalStateUnknown); isUnknown {
				object = last.Obj
			}
			p.forget(object.(*corev1.Pod).UID)
		},
	})
	factory.Start(ctx.Done())
	return err
}

// observe starts an Envoy as soon as its pod runs, and ends it when the pod begins to end.
func (p *proxies) observe(parent context.Context, pod *corev1.Pod) {
	sidecar := sidecarOf(pod)
	if pod.Annotations[proxyAnnotation] != "envoy" || sidecar == nil {
		return
	}
	if pod.DeletionTimestamp != nil {
		p.forget(pod.UID)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, known := p.running[pod.UID]; known || pod.Status.Phase != corev1.PodRunning || pod.Status.PodIP == "" {
		return
	}
	ctx, cancel := context.WithCancel(parent)
	p.running[pod.UID] = cancel
	go p.run(ctx, pod.DeepCopy(), sidecar.DeepCopy())
}

func (p *proxies) forget(uid types.UID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if cancel, known := p.running[uid]; known {
		cancel()
		delete(p.running, uid)
	}
}

func sidecarOf(pod *corev1.Pod) *corev1.Container {
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == "istio-proxy" {
				return &list[i]
			}
		}
	}
	return nil
}

// run keeps one Envoy alive until its pod ends; what it needs may be there only a moment after the pod.
func (p *proxies) run(ctx context.Context, pod *corev1.Pod, sidecar *corev1.Container) {
	name := p.cluster.name + "/envoy/" + pod.Namespace + "/" + pod.Name
	for ctx.Err() == nil {
		process, err := p.start(ctx, name, pod, sidecar)
		if err != nil {
			fmt.Fprintf(os.Stderr, "lab: %s: %v\n", name, err)
		} else {
			select {
			case <-process.done:
			case <-ctx.Done():
				process.stop(time.Second)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func (p *proxies) start(ctx context.Context, name string, pod *corev1.Pod, sidecar *corev1.Container) (*process, error) {
	envoy, err := mustProgram("envoy")
	if err != nil {
		return nil, err
	}
	bootstrap, err := p.bootstrap(ctx, pod, sidecar)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(p.cluster.file("proxies"), string(pod.UID)+".json")
	if err := writeJSON(file, bootstrap); err != nil {
		return nil, err
	}
	return p.supervisor.start(name, exec.Command(envoy, "--config-path", file, "--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"))
}

type object = map[string]any

// bootstrap is what istio-agent would give Envoy: who it is, and where its istiod listens.
func (p *proxies) bootstrap(ctx context.Context, pod *corev1.Pod, sidecar *corev1.Container) (object, error) {
	host, address, err := p.discovery(ctx, sidecar)
	if err != nil {
		return nil, err
	}
	life := proxyTokenLife
	token, err := p.cluster.client.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(ctx, pod.Spec.ServiceAccountName, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{Audiences: []string{"istio-ca"}, ExpirationSeconds: &life},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	roots, err := p.cluster.client.CoreV1().ConfigMaps(pod.Namespace).Get(ctx, "istio-ca-root-cert", metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	metadata := func(key, value string) object { return object{"key": key, "value": value} }
	ads := object{"api_type": "GRPC", "transport_api_version": "V3", "grpc_services": []object{{
		"envoy_grpc":       object{"cluster_name": "xds-grpc"},
		"initial_metadata": []object{metadata("authorization", "Bearer "+token.Status.Token), metadata("clusterid", p.cluster.name)},
	}}}
	over := object{"ads": object{}, "resource_api_version": "V3"}
	_, version, _ := strings.Cut(sidecar.Image[strings.LastIndex(sidecar.Image, "/")+1:], ":")
	return object{
		"node": object{
			// A router gets no listeners that would need Istio's own build of Envoy, or the pod's own network.
			"id":      fmt.Sprintf("router~%s~%s.%s~%s.svc.cluster.local", pod.Status.PodIP, pod.Name, pod.Namespace, pod.Namespace),
			"cluster": pod.Name + "." + pod.Namespace,
			"metadata": object{
				"CLUSTER_ID": p.cluster.name, "NAMESPACE": pod.Namespace, "SERVICE_ACCOUNT": pod.Spec.ServiceAccountName,
				"NAME": pod.Name, "ISTIO_VERSION": version, "LABELS": pod.Labels,
			},
		},
		"dynamic_resources": object{"ads_config": ads, "cds_config": over, "lds_config": over},
		"static_resources":  object{"clusters": []object{xdsCluster(host, address, roots.Data["root-cert.pem"])}},
	}, nil
}

// discovery reads the address that the injector wrote into the sidecar, and looks up where it leads in this cluster.
func (p *proxies) discovery(ctx context.Context, sidecar *corev1.Container) (host, address string, err error) {
	var config struct {
		DiscoveryAddress string `json:"discoveryAddress"`
	}
	for _, variable := range sidecar.Env {
		if variable.Name == "PROXY_CONFIG" {
			if err := json.Unmarshal([]byte(variable.Value), &config); err != nil {
				return "", "", fmt.Errorf("PROXY_CONFIG: %w", err)
			}
		}
	}
	host, _, _ = strings.Cut(config.DiscoveryAddress, ":")
	parts := strings.Split(host, ".")
	if len(parts) < 2 {
		return "", "", fmt.Errorf("the sidecar's discovery address is %q", config.DiscoveryAddress)
	}
	slices, err := p.cluster.client.DiscoveryV1().EndpointSlices(parts[1]).List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=" + parts[0]})
	if err != nil {
		return "", "", err
	}
	for _, slice := range slices.Items {
		for _, endpoint := range slice.Endpoints {
			if len(endpoint.Addresses) > 0 {
				return host, endpoint.Addresses[0], nil
			}
		}
	}
	return "", "", fmt.Errorf("the service %s has no endpoint", host)
}

func xdsCluster(host, address, roots string) object {
	const upstream = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
	return object{
		"name": "xds-grpc", "type": "STATIC", "connect_timeout": "5s",
		"typed_extension_protocol_options": object{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": object{
			"@type": upstream, "explicit_http_config": object{"http2_protocol_options": object{}},
		}},
		"transport_socket": object{"name": "envoy.transport_sockets.tls", "typed_config": object{
			"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", "sni": host,
			"common_tls_context": object{"validation_context": object{
				"trusted_ca":                    object{"inline_string": roots},
				"match_typed_subject_alt_names": []object{{"san_type": "DNS", "matcher": object{"exact": host}}},
			}},
		}},
		"load_assignment": object{"cluster_name": "xds-grpc", "endpoints": []object{{"lb_endpoints": []object{{
			"endpoint": object{"address": object{"socket_address": object{"address": address, "port_value": 15012}}},
		}}}}},
	}
}
