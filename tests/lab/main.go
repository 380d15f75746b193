// Command lab runs real Kubernetes clusters and real istiods as plain processes in a private namespace of this machine:
// one hosting cluster whose node agent runs istiod, and any number of user clusters whose pods are played by kwok.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

const usage = `usage: lab COMMAND [flags]

  up [--user-clusters N] [--name NAME]   start a hosting cluster and N user clusters (default 2);
                                         --later PROGRAM starts without one that is still being built
  down [--name NAME]                     stop everything and remove the lab's directory
  status [-o json]                       the clusters with role, kubeconfig, address and version
  exec [--listen ADDR]... -- COMMAND     run a command inside the lab's network; each ADDR is bound outside first
                                         and handed over as a descriptor (LISTEN_FDS)
  logs [COMPONENT]                       list the logs, or print one (for example c1/kube-apiserver)
  dump [--normal]                        every object of every cluster as JSON lines; --normal removes volatile fields
  record [--until-file FILE]             every watch event of every cluster as JSON lines, until interrupted
  signal PROCESS SIGNAL                  send KILL, TERM, STOP or CONT to a process named by 'status -o json'
  charts VERSION                         print the folder of a release's charts, out of Istio's own module
  build [PROGRAM...]                     build the programs into the cache now
  cache export|import FILE               write or read the built programs with a manifest of digests
  probe                                  say whether this machine can run a lab, and what helps if not

Several labs run side by side: give each a --name. The environment variable MESHWRIGHT_CACHE moves the cache,
MESHWRIGHT_LAB_DIR the directory of running labs.
`

// errUsage makes main print the usage text and exit 2.
var errUsage = errors.New("usage")

func main() {
	if err := dispatch(os.Args[1:]); err != nil {
		if errors.Is(err, errUsage) {
			fmt.Fprint(os.Stderr, usage)
			os.Exit(2)
		}
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

func dispatch(args []string) error {
	if len(args) == 0 {
		return errUsage
	}
	commands := map[string]func([]string) error{
		"up": up, "down": down, "status": status, "exec": execInside, "logs": logs, "dump": dump, "record": record,
		"signal": sendSignal, "build": build, "charts": charts, "cache": cacheCommand, "probe": probeCommand,
		insideCommand: inside, containerCommand: container,
	}
	if args[0] == "help" || args[0] == "--help" || args[0] == "-h" {
		fmt.Print(usage)
		return nil
	}
	command, known := commands[args[0]]
	if !known {
		return errUsage
	}
	return command(args[1:])
}

// labFlags makes a flag set that knows --name, the one flag that every command has.
func labFlags(command string) (*flag.FlagSet, *string) {
	flags := flag.NewFlagSet("lab "+command, flag.ContinueOnError)
	name := flags.String("name", "default", "which lab")
	return flags, name
}

// labDir is the directory of one running lab.
func labDir(name string) string {
	root := os.Getenv("MESHWRIGHT_LAB_DIR")
	if root == "" {
		root = filepath.Join(os.TempDir(), fmt.Sprintf("meshwright-lab-%d", os.Getuid()))
	}
	return filepath.Join(root, name)
}
