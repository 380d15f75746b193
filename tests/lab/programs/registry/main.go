// Command registry is an OCI registry in memory, over TLS: charts are pushed to it and pulled from it.
package main

import (
	"flag"
	"fmt"
	"net/http"
	"os"

	"github.com/google/go-containerregistry/pkg/registry"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:5000", "address to listen on")
	certificate := flag.String("certificate", "", "file with the certificate, as PEM")
	key := flag.String("key", "", "file with its key, as PEM")
	flag.Parse()
	if err := http.ListenAndServeTLS(*listen, *certificate, *key, registry.New()); err != nil {
		fmt.Fprintln(os.Stderr, "registry:", err)
		os.Exit(1)
	}
}
