package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const testLab = "selftest"

// asItself marks a start of this test binary that is to be the lab's own program.
const asItself = "MESHWRIGHT_LAB_TEST_AS_ITSELF"

// TestMain plays the lab's program when the lab starts itself, and otherwise runs the tests against one lab.
func TestMain(m *testing.M) {
	if os.Getenv(asItself) != "" {
		main()
		return
	}
	if err := os.Setenv(asItself, "1"); err != nil {
		panic(err)
	}
	if out, err := itself("up", "--user-clusters", "1"); err != nil {
		fmt.Println(out, err)
		os.Exit(1)
	}
	code := m.Run()
	if out, err := itself("down"); err != nil {
		fmt.Println(out, err)
		code = 1
	}
	os.Exit(code)
}

// itself runs one of the lab's commands.
func itself(command string, args ...string) (string, error) {
	out, err := exec.Command(os.Args[0], append([]string{command, "--name", testLab}, args...)...).CombinedOutput()
	return string(out), err
}

func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := tryKubectl(args...)
	if err != nil {
		t.Fatalf("kubectl %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(out)
}

func tryKubectl(args ...string) (string, error) {
	s, err := readState(labDir(testLab))
	if err != nil {
		return "", err
	}
	kubeconfig := filepath.Join(labDir(testLab), "c1", "kubeconfig")
	return itself("exec", append([]string{"--", s.Kubernetes, "kubectl", "--kubeconfig", kubeconfig}, args...)...)
}

func apply(t *testing.T, manifest string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "manifest.yaml")
	if err := os.WriteFile(file, []byte(manifest), 0o644); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "apply", "-f", file)
}

func eventually(t *testing.T, what string, ask func() bool) {
	t.Helper()
	for deadline := time.Now().Add(90 * time.Second); !ask(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("gave up waiting until %s", what)
		}
	}
}

func deployment(name string, replicas int, annotations, strategy string) string {
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s, namespace: default}
spec:
  replicas: %[2]d
  %[4]s
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}, annotations: {%[3]s}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: app, image: registry.example/app:1}]
`, name, replicas, annotations, strategy)
}

func available(t *testing.T, name string) string {
	return kubectl(t, "get", "deployment", name, "-o", "jsonpath={.status.availableReplicas}")
}

func TestRollingRestartRespectsMaxUnavailable(t *testing.T) {
	apply(t, deployment("rolling", 4, "", "strategy: {rollingUpdate: {maxUnavailable: 1, maxSurge: 0}}"))
	eventually(t, "4 are available", func() bool { return available(t, "rolling") == "4" })
	kubectl(t, "rollout", "restart", "deployment/rolling")
	lowest := "4"
	eventually(t, "the restart is over", func() bool {
		lowest = min(lowest, available(t, "rolling"))
		status := kubectl(t, "get", "deployment", "rolling", "-o", "jsonpath={.metadata.generation}/{.status.observedGeneration} {.status.updatedReplicas} {.status.availableReplicas} {.status.replicas}")
		return status == "2/2 4 4 4"
	})
	if lowest < "3" {
		t.Errorf("only %s were available, 3 are promised", lowest)
	}
}

func TestPodDisruptionBudgetBlocksAnEviction(t *testing.T) {
	apply(t, deployment("guarded", 1, "", "")+`---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: guarded, namespace: default}
spec: {minAvailable: 1, selector: {matchLabels: {app: guarded}}}
`)
	eventually(t, "the budget knows its pod", func() bool {
		return kubectl(t, "get", "pdb", "guarded", "-o", "jsonpath={.status.currentHealthy}") == "1"
	})
	pod := kubectl(t, "get", "pods", "-l", "app=guarded", "-o", "jsonpath={.items[0].metadata.name}")
	file := filepath.Join(t.TempDir(), "eviction.json")
	eviction := fmt.Sprintf(`{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":%q,"namespace":"default"}}`, pod)
	if err := os.WriteFile(file, []byte(eviction), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := tryKubectl("create", "--raw", "/api/v1/namespaces/default/pods/"+pod+"/eviction", "-f", file)
	if err == nil || !strings.Contains(out, "disruption budget") {
		t.Errorf("the eviction was not blocked: %v %s", err, out)
	}
}

func TestFaultsAreChosenByAnnotation(t *testing.T) {
	apply(t, deployment("never", 1, `lab.meshwright.dev/fault: never`, ""))
	apply(t, deployment("crash", 1, `lab.meshwright.dev/fault: crash`, ""))
	apply(t, deployment("late", 1, `lab.meshwright.dev/ready-after: 3s`, ""))
	reason := func(name string) string {
		return kubectl(t, "get", "pods", "-l", "app="+name, "-o", "jsonpath={.items[0].status.containerStatuses[0].state.waiting.reason}")
	}
	eventually(t, "the crash loop shows", func() bool { return reason("crash") == "CrashLoopBackOff" })
	eventually(t, "the late one is ready", func() bool { return available(t, "late") == "1" })
	if now := available(t, "never"); now != "" {
		t.Errorf("the pod that never becomes ready is available: %s", now)
	}
}

func TestDumpsOfOneStateAreEqual(t *testing.T) {
	apply(t, deployment("still", 2, "", ""))
	eventually(t, "2 are available", func() bool { return available(t, "still") == "2" })
	var first string
	eventually(t, "two dumps agree", func() bool {
		second, err := itself("dump", "--normal")
		if err != nil {
			t.Fatal(second)
		}
		same := first == second
		first = second
		return same
	})
	if !strings.Contains(first, "c1 Deployment default/still ") {
		t.Error("the dump lacks the Deployment")
	}
}

func TestNormalizeRemovesWhatIsListedAndNothingElse(t *testing.T) {
	var object map[string]any
	text := `{"metadata":{"name":"a","uid":"1","annotations":{"deployment.kubernetes.io/revision":"2"},"ownerReferences":[{"name":"b","uid":"3"}]},"spec":{"x":1},"status":{"y":2}}`
	if err := json.Unmarshal([]byte(text), &object); err != nil {
		t.Fatal(err)
	}
	if err := normalize(object, "Deployment"); err != nil {
		t.Fatal(err)
	}
	left, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"metadata":{"name":"a","ownerReferences":[{"name":"b"}]},"spec":{"x":1}}`; string(left) != want {
		t.Errorf("left %s, want %s", left, want)
	}
}

func TestNothingSurvivesDown(t *testing.T) {
	const name = "shortlived"
	out, err := exec.Command(os.Args[0], "up", "--name", name, "--user-clusters", "0").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	dir := labDir(name)
	if count := len(processesOf(t, dir)); count == 0 {
		t.Fatal("a running lab has no processes")
	}
	if out, err := exec.Command(os.Args[0], "down", "--name", name).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	eventually(t, "every process is gone", func() bool { return len(processesOf(t, dir)) == 0 })
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", dir, err)
	}
}

// processesOf lists the processes whose command line names a lab's directory.
func processesOf(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, file := range files {
		// A process that ended in between has no command line any more.
		if text, err := os.ReadFile(file); err == nil && strings.Contains(string(text), dir+"/") {
			found = append(found, file)
		}
	}
	return found
}
