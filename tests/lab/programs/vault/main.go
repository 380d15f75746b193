// Command vault is Vault's core with its transit engine and its own HTTP API, and nothing else of it: no agents, no other
// engines, everything in memory. It starts as Vault does, neither initialised nor unsealed.
package main

import (
	"flag"
	"fmt"
	"net/http"
	"os"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/builtin/logical/transit"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical/inmem"
	"github.com/hashicorp/vault/vault"
)

const engine = "transit"

func main() {
	listen := flag.String("listen", "127.0.0.1:8200", "address to listen on")
	certificate := flag.String("certificate", "", "file with the certificate, as PEM")
	key := flag.String("key", "", "file with its key, as PEM")
	flag.Parse()
	if err := serve(*listen, *certificate, *key); err != nil {
		fmt.Fprintln(os.Stderr, "vault:", err)
		os.Exit(1)
	}
}

func serve(listen, certificate, key string) error {
	logger := hclog.New(&hclog.LoggerOptions{Name: "vault", Level: hclog.Warn})
	storage, err := inmem.NewInmem(nil, logger)
	if err != nil {
		return err
	}
	core, err := vault.NewCore(&vault.CoreConfig{
		Physical:        storage,
		LogicalBackends: map[string]logical.Factory{engine: transit.Factory},
		BuiltinRegistry: onlyTransit{},
		RedirectAddr:    "https://" + listen,
		DisableMlock:    true,
		Logger:          logger,
	})
	if err != nil {
		return err
	}
	handler := vaulthttp.Handler.Handler(&vault.HandlerProperties{Core: core})
	return http.ListenAndServeTLS(listen, certificate, key, handler)
}

// onlyTransit is what Vault asks which engines came with it.
type onlyTransit struct{}

func (onlyTransit) Contains(name string, kind consts.PluginType) bool {
	return name == engine && kind == consts.PluginTypeSecrets
}

func (r onlyTransit) Get(name string, kind consts.PluginType) (func() (any, error), bool) {
	return func() (any, error) { return logical.Factory(transit.Factory), nil }, r.Contains(name, kind)
}

func (onlyTransit) Keys(kind consts.PluginType) []string {
	if kind == consts.PluginTypeSecrets {
		return []string{engine}
	}
	return nil
}

func (r onlyTransit) DeprecationStatus(name string, kind consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Supported, r.Contains(name, kind)
}
