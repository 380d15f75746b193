package main

import _ "embed"

//go:embed stages.yaml
var stages []byte

//go:embed volatile.txt
var volatileFields string
