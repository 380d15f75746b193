// Command istio is istiod (pilot-discovery) and istioctl of one release in one binary, chosen by the first argument.
package main

import (
	"fmt"
	"os"

	istioctl "istio.io/istio/istioctl/cmd"
	discovery "istio.io/istio/pilot/cmd/pilot-discovery/app"
	"istio.io/istio/pkg/log"
)

func main() {
	if len(os.Args) < 2 {
		usage()
	}
	program := os.Args[1]
	os.Args = append([]string{program}, os.Args[2:]...)
	log.EnableKlogWithCobra()
	switch program {
	case "pilot-discovery":
		run(discovery.NewRootCommand().Execute)
	case "istioctl":
		run(istioctl.GetRootCmd(os.Args[1:]).Execute)
	default:
		usage()
	}
}

func run(execute func() error) {
	if err := execute(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: istio {pilot-discovery|istioctl} [arguments]")
	os.Exit(2)
}
