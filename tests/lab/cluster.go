package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	hostingRole = "hosting"
	userRole    = "user"
	// userNodes are enough for DaemonSets to mean something.
	userNodes = 3
)

// auditPolicy keeps who wrote what with the request's body, and leaves out reads and the cluster's own heartbeats.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  userGroups: ["system:serviceaccounts:meshwright-system"]
  resources: [{group: coordination.k8s.io}]
- level: None
  resources: [{group: "", resources: [events]}, {group: coordination.k8s.io}, {group: events.k8s.io}]
- level: None
  users: ["system:kube-controller-manager", "system:kube-scheduler", "system:apiserver", "lab-agent"]
- level: Request
  verbs: [create, update, patch, delete, deletecollection]
- level: Metadata
`

// cluster is one real API server with its store, controllers and scheduler.
type cluster struct {
	name, role, address, dir string
	index                    int
	authority                *authority
	admin                    *rest.Config
	client                   kubernetes.Interface
}

func (c *cluster) file(name string) string { return filepath.Join(c.dir, name) }

func (c *cluster) server() string { return "https://" + c.address + ":6443" }

func (c *cluster) state() clusterState {
	return clusterState{
		Name: c.name, Role: c.role, Kubeconfig: c.file("kubeconfig"), Address: c.address, Version: "v" + kubernetesVersion,
		AuditLog: c.file("audit.log"),
	}
}

// startClusters brings up the hosting cluster and the user clusters side by side; the hosting cluster comes first in the answer.
func startClusters(ctx context.Context, supervisor *supervisor, dir string, users int) ([]*cluster, error) {
	clusters := []*cluster{{name: "hosting", role: hostingRole}}
	for i := 1; i <= users; i++ {
		clusters = append(clusters, &cluster{name: fmt.Sprintf("c%d", i), role: userRole, index: i})
	}
	results := make(chan error, len(clusters))
	for _, c := range clusters {
		c.address = fmt.Sprintf("10.%d.0.1", c.index)
		c.dir = filepath.Join(dir, c.name)
		go func() { results <- c.start(ctx, supervisor) }()
	}
	var failure error
	for range clusters {
		failure = errors.Join(failure, <-results)
	}
	return clusters, failure
}

func (c *cluster) start(ctx context.Context, supervisor *supervisor) error {
	if err := c.prepare(); err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	kubernetesBinary, err := mustProgram("kubernetes")
	if err != nil {
		return err
	}
	run := func(program string, arguments []string) error {
		_, err := supervisor.start(c.name+"/"+program, exec.Command(kubernetesBinary, append([]string{program}, arguments...)...))
		return err
	}
	if err := errors.Join(run("etcd", c.etcdFlags()), run("kube-apiserver", c.apiServerFlags())); err != nil {
		return err
	}
	if err := c.connect(ctx); err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	if err := errors.Join(run("kube-controller-manager", c.controllerFlags()), run("kube-scheduler", c.schedulerFlags())); err != nil {
		return err
	}
	if c.role == userRole {
		return c.startKwok(ctx, supervisor)
	}
	return nil
}

func mustProgram(name string) (string, error) {
	p, err := programNamed(name)
	if err != nil {
		return "", err
	}
	return p.ensure()
}

// prepare writes keys, certificates, configurations and the audit policy.
func (c *cluster) prepare() error {
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return err
	}
	var err error
	if c.authority, err = newAuthority(c.name); err != nil {
		return err
	}
	accounts, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	accountsKey, err := encodeKey(accounts)
	if err != nil {
		return err
	}
	accountsPublic, err := x509.MarshalPKIXPublicKey(&accounts.PublicKey)
	if err != nil {
		return err
	}
	files := map[string][]byte{
		"ca.crt": c.authority.pem, "accounts.key": accountsKey, "audit-policy.yaml": []byte(auditPolicy),
		"accounts.pub": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: accountsPublic}),
	}
	masters := []string{"system:masters"}
	for file, user := range map[string]struct {
		name   string
		groups []string
	}{
		"kubeconfig": {"admin", masters}, "controllers.kubeconfig": {"system:kube-controller-manager", nil},
		"scheduler.kubeconfig": {"system:kube-scheduler", nil}, "agent.kubeconfig": {"lab-agent", masters},
	} {
		if files[file], err = c.authority.kubeconfig(c.name, c.server(), user.name, user.groups); err != nil {
			return err
		}
	}
	for file, text := range files {
		if err := os.WriteFile(c.file(file), text, 0o600); err != nil {
			return err
		}
	}
	return errors.Join(
		c.authority.writePair(c.dir, "apiserver", "kube-apiserver", nil, c.address, c.serviceAddress(), "kubernetes", "kubernetes.default", "kubernetes.default.svc"),
		c.authority.writePair(c.dir, "kubelet-client", "kube-apiserver-kubelet-client", []string{"system:masters"}),
	)
}

// serviceAddress is the first address of the service range, which Kubernetes gives to itself.
func (c *cluster) serviceAddress() string { return fmt.Sprintf("10.%d.240.1", c.index) }

// issuer is what tokens of the cluster's own accounts name, and where its keys are found.
func (c *cluster) issuer() string { return "https://" + c.address + ":6443" }

func (c *cluster) etcdFlags() []string {
	client, peer := "http://"+c.address+":2379", "http://"+c.address+":2380"
	return []string{
		"--name=" + c.name, "--data-dir=" + c.file("etcd"), "--unsafe-no-fsync",
		"--listen-client-urls=" + client, "--advertise-client-urls=" + client, "--listen-peer-urls=" + peer,
		"--initial-advertise-peer-urls=" + peer, "--initial-cluster=" + c.name + "=" + peer, "--log-level=warn",
	}
}

func (c *cluster) apiServerFlags() []string {
	return []string{
		"--etcd-servers=http://" + c.address + ":2379", "--bind-address=" + c.address, "--advertise-address=" + c.address, "--secure-port=6443",
		"--tls-cert-file=" + c.file("apiserver.crt"), "--tls-private-key-file=" + c.file("apiserver.key"), "--client-ca-file=" + c.file("ca.crt"),
		"--kubelet-client-certificate=" + c.file("kubelet-client.crt"), "--kubelet-client-key=" + c.file("kubelet-client.key"),
		// A discovery document is looked for at the issuer's address. The second one is only accepted.
		"--service-account-issuer=" + c.issuer(), "--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=" + c.file("accounts.pub"),
		"--service-account-signing-key-file=" + c.file("accounts.key"), fmt.Sprintf("--service-cluster-ip-range=10.%d.240.0/20", c.index),
		"--authorization-mode=RBAC", "--allow-privileged", "--profiling=false", "--audit-policy-file=" + c.file("audit-policy.yaml"),
		"--audit-log-path=" + c.file("audit.log"), "--audit-log-mode=blocking",
		// It is read while it grows: one file, however long.
		"--audit-log-maxsize=100000",
		// Nothing here plays the part of the node controller that would take this taint off again.
		"--disable-admission-plugins=TaintNodesByCondition",
	}
}

func (c *cluster) controllerFlags() []string {
	return []string{
		"--kubeconfig=" + c.file("controllers.kubeconfig"), "--service-account-private-key-file=" + c.file("accounts.key"),
		"--root-ca-file=" + c.file("ca.crt"), "--use-service-account-credentials", "--leader-elect=false", "--bind-address=" + c.address,
		"--kube-api-qps=300", "--kube-api-burst=600", "--min-resync-period=10m", "--profiling=false",
		// A busy machine must not make nodes look dead.
		"--controllers=*,-node-lifecycle-controller,-taint-eviction-controller,-node-ipam-controller,-node-route-controller",
	}
}

func (c *cluster) schedulerFlags() []string {
	return []string{
		"--kubeconfig=" + c.file("scheduler.kubeconfig"), "--leader-elect=false", "--bind-address=" + c.address,
		"--kube-api-qps=300", "--kube-api-burst=600", "--profiling=false",
	}
}

// connect waits until the API server is ready and its own namespaces exist.
func (c *cluster) connect(ctx context.Context) error {
	var err error
	if c.admin, err = clientcmd.BuildConfigFromFlags("", c.file("agent.kubeconfig")); err != nil {
		return err
	}
	c.admin.QPS, c.admin.Burst = 300, 600
	if c.client, err = kubernetes.NewForConfig(c.admin); err != nil {
		return err
	}
	return await(ctx, "the API server of "+c.name, func() error {
		if err := c.client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error(); err != nil {
			return err
		}
		_, err := c.client.CoreV1().Namespaces().Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// await repeats a question until it is answered or the start limit is over.
func await(ctx context.Context, what string, question func() error) error {
	deadline := time.Now().Add(startLimit)
	for {
		err := question()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is not ready: %w", what, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// startKwok makes the nodes of a user cluster; kwok keeps them and plays the pods on them.
func (c *cluster) startKwok(ctx context.Context, supervisor *supervisor) error {
	for i := 1; i <= userNodes; i++ {
		name := fmt.Sprintf("%s-node-%d", c.name, i)
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}}}
		if _, err := c.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	if err := os.WriteFile(c.file("stages.yaml"), stages, 0o644); err != nil {
		return err
	}
	kwok, err := mustProgram("kwok")
	if err != nil {
		return err
	}
	_, err = supervisor.start(c.name+"/kwok", exec.Command(kwok,
		"--kubeconfig="+c.file("agent.kubeconfig"), "--manage-all-nodes=true", "--config="+c.file("stages.yaml"),
		fmt.Sprintf("--cidr=10.%d.64.0/18", c.index), fmt.Sprintf("--node-ip=10.%d.0.2", c.index), "--server-address="+c.address+":10247",
	))
	return err
}
