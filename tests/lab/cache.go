package main

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
)

// manifest maps each file of an exported cache to its SHA-256.
type manifest map[string]string

const manifestName = "manifest.json"

func cacheCommand(args []string) error {
	if len(args) != 2 {
		return errUsage
	}
	switch args[0] {
	case "export":
		return exportCache(args[1])
	case "import":
		return importCache(args[1])
	}
	return errUsage
}

func exportCache(file string) error {
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer out.Close()
	zipped := gzip.NewWriter(out)
	archive := tar.NewWriter(zipped)
	digests := manifest{}
	for _, p := range programs {
		binary, err := p.ensure()
		if err != nil {
			return err
		}
		if err := addFolder(archive, filepath.Dir(binary), digests); err != nil {
			return err
		}
	}
	text, err := json.MarshalIndent(digests, "", "  ")
	if err != nil {
		return err
	}
	if err := archive.WriteHeader(&tar.Header{Name: manifestName, Mode: 0o644, Size: int64(len(text))}); err != nil {
		return err
	}
	if _, err := archive.Write(text); err != nil {
		return err
	}
	return errors.Join(archive.Close(), zipped.Close())
}

func addFolder(archive *tar.Writer, folder string, digests manifest) error {
	var files []string
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			files = append(files, path)
		}
		return err
	})
	sort.Strings(files)
	for _, path := range files {
		if err != nil {
			return err
		}
		err = addFile(archive, path, digests)
	}
	return err
}

func addFile(archive *tar.Writer, path string, digests manifest) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	name, err := filepath.Rel(cacheDir(), path)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(text)
	digests[name] = hex.EncodeToString(sum[:])
	if err := archive.WriteHeader(&tar.Header{Name: name, Mode: int64(info.Mode().Perm()), Size: int64(len(text))}); err != nil {
		return err
	}
	_, err = archive.Write(text)
	return err
}

// importCache unpacks beside the cache, compares every digest, and only then moves the folders in.
func importCache(file string) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	zipped, err := gzip.NewReader(in)
	if err != nil {
		return fmt.Errorf("%s is not an exported cache: %w", file, err)
	}
	if err := os.MkdirAll(cacheDir(), 0o755); err != nil {
		return err
	}
	staging, err := os.MkdirTemp(cacheDir(), "import-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(staging)
	found, err := unpack(tar.NewReader(zipped), staging)
	if err != nil {
		return err
	}
	if err := verify(found, filepath.Join(staging, manifestName)); err != nil {
		return fmt.Errorf("%s is damaged, nothing was imported: %w", file, err)
	}
	entries, err := os.ReadDir(staging)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		target := filepath.Join(cacheDir(), entry.Name())
		if _, err := os.Stat(target); err == nil || entry.Name() == manifestName {
			continue
		}
		if err := os.Rename(filepath.Join(staging, entry.Name()), target); err != nil {
			return err
		}
	}
	return nil
}

func unpack(archive *tar.Reader, to string) (manifest, error) {
	found := manifest{}
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return nil, err
		}
		if !filepath.IsLocal(header.Name) {
			return nil, fmt.Errorf("the archive names a path outside itself: %q", header.Name)
		}
		path := filepath.Join(to, header.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
		out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, fs.FileMode(header.Mode).Perm())
		if err != nil {
			return nil, err
		}
		digest := sha256.New()
		_, err = io.Copy(io.MultiWriter(out, digest), archive)
		if err := errors.Join(err, out.Close()); err != nil {
			return nil, err
		}
		found[header.Name] = hex.EncodeToString(digest.Sum(nil))
	}
}

func verify(found manifest, manifestFile string) error {
	text, err := os.ReadFile(manifestFile)
	if err != nil {
		return err
	}
	var stated manifest
	if err := json.Unmarshal(text, &stated); err != nil {
		return err
	}
	delete(found, manifestName)
	if len(found) != len(stated) {
		return fmt.Errorf("the manifest lists %d files, the archive holds %d", len(stated), len(found))
	}
	for name, digest := range stated {
		if found[name] != digest {
			return fmt.Errorf("digest of %s differs", name)
		}
	}
	return nil
}
