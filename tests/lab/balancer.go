package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// balancer gives every Service of type LoadBalancer in the hosting cluster an address of its own and forwards its
// ports to ready endpoints: what a cloud's load balancer does, and how user clusters reach each istiod.
type balancer struct {
	cluster *cluster
	news    chan endpointNews
	mu      sync.Mutex
	slices  map[types.NamespacedName]*discoveryv1.EndpointSlice
	fronts  map[types.UID]*front
	given   int
	turn    int
}

// endpointLag is how late the balancer learns which endpoints are ready. None learns it at once: whoever ends without
// waiting is still sent connections.
const endpointLag = time.Second

// endpointNews is what happened to a slice; nil is that it is gone.
type endpointNews struct {
	at    time.Time
	name  types.NamespacedName
	slice *discoveryv1.EndpointSlice
}

// front is one Service's address with its open ports.
type front struct {
	address   string
	listeners map[int32]net.Listener
}

func startBalancer(ctx context.Context, c *cluster) error {
	factory := informers.NewSharedInformerFactory(c.client, 0)
	b := &balancer{
		cluster: c, fronts: map[types.UID]*front{}, slices: map[types.NamespacedName]*discoveryv1.EndpointSlice{}, news: make(chan endpointNews, 1024),
	}
	_, err := factory.Core().V1().Services().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { b.settle(ctx, object.(*corev1.Service)) },
		UpdateFunc: func(_, object any) { b.settle(ctx, object.(*corev1.Service)) },
		DeleteFunc: func(object any) {
			if last, isUnknown := object.(cache.DeletedFinalStateUnknown); isUnknown {
				object = last.Obj
			}
			b.close(object.(*corev1.Service).UID)
		},
	})
	if err != nil {
		return err
	}
	_, err = factory.Discovery().V1().EndpointSlices().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { b.hear(object, false) },
		UpdateFunc: func(_, object any) { b.hear(object, false) },
		DeleteFunc: func(object any) {
			if last, isUnknown := object.(cache.DeletedFinalStateUnknown); isUnknown {
				object = last.Obj
			}
			b.hear(object, true)
		},
	})
	if err != nil {
		return err
	}
	go b.learn(ctx)
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	return nil
}

func (b *balancer) hear(object any, gone bool) {
	slice := object.(*discoveryv1.EndpointSlice)
	news := endpointNews{at: time.Now(), name: types.NamespacedName{Namespace: slice.Namespace, Name: slice.Name}}
	if !gone {
		news.slice = slice
	}
	b.news <- news
}

// learn takes in the news in order, each as late as it is due.
func (b *balancer) learn(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case news := <-b.news:
			time.Sleep(time.Until(news.at.Add(endpointLag)))
			b.mu.Lock()
			if news.slice == nil {
				delete(b.slices, news.name)
			} else {
				b.slices[news.name] = news.slice
			}
			b.mu.Unlock()
		}
	}
}

// settle opens a Service's ports and says its address in the status.
func (b *balancer) settle(ctx context.Context, service *corev1.Service) {
	if service.Spec.Type != corev1.ServiceTypeLoadBalancer || service.DeletionTimestamp != nil {
		b.close(service.UID)
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	known, found := b.fronts[service.UID]
	if !found {
		b.given++
		known = &front{address: fmt.Sprintf("10.0.%d.%d", 128+b.given/250, 1+b.given%250), listeners: map[int32]net.Listener{}}
		b.fronts[service.UID] = known
	}
	for _, port := range service.Spec.Ports {
		if _, open := known.listeners[port.Port]; open {
			continue
		}
		listener, err := net.Listen("tcp", net.JoinHostPort(known.address, strconv.Itoa(int(port.Port))))
		if err != nil {
			fmt.Fprintln(os.Stderr, "lab: load balancer:", err)
			continue
		}
		known.listeners[port.Port] = listener
		go b.accept(ctx, listener, service.Namespace, service.Name, port.Name)
	}
	if len(service.Status.LoadBalancer.Ingress) == 0 {
		b.announce(ctx, service, known.address)
	}
}

func (b *balancer) announce(ctx context.Context, service *corev1.Service, address string) {
	status := corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: address}}}}
	text, err := json.Marshal(map[string]any{"status": status})
	if err == nil {
		_, err = b.cluster.client.CoreV1().Services(service.Namespace).Patch(ctx, service.Name, types.MergePatchType, text, metav1.PatchOptions{}, "status")
	}
	if err != nil && ctx.Err() == nil {
		fmt.Fprintf(os.Stderr, "lab: address of %s/%s: %v\n", service.Namespace, service.Name, err)
	}
}

func (b *balancer) close(uid types.UID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if known, found := b.fronts[uid]; found {
		for _, listener := range known.listeners {
			listener.Close()
		}
		delete(b.fronts, uid)
	}
}

func (b *balancer) accept(ctx context.Context, listener net.Listener, namespace, name, port string) {
	for {
		connection, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			endpoint, found := b.pick(namespace, name, port)
			if !found {
				connection.Close()
				return
			}
			backend, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", endpoint)
			if err != nil {
				connection.Close()
				return
			}
			splice(connection, backend)
		}()
	}
}

// pick takes the ready endpoints in turn.
func (b *balancer) pick(namespace, name, port string) (string, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var ready []string
	for _, slice := range b.slices {
		if slice.Namespace != namespace || slice.Labels[discoveryv1.LabelServiceName] != name {
			continue
		}
		for _, offered := range slice.Ports {
			if offered.Name == nil || *offered.Name != port || offered.Port == nil {
				continue
			}
			for _, endpoint := range slice.Endpoints {
				if endpoint.Conditions.Ready != nil && *endpoint.Conditions.Ready {
					ready = append(ready, net.JoinHostPort(endpoint.Addresses[0], strconv.Itoa(int(*offered.Port))))
				}
			}
		}
	}
	if len(ready) == 0 {
		return "", false
	}
	b.turn++
	return ready[b.turn%len(ready)], true
}
