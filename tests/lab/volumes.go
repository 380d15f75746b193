package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// volumes keeps a pod's volumes as folders of files, like a kubelet: changed in place, each file in one rename.
type volumes struct {
	client kubernetes.Interface
	object *corev1.Pod
	dir    string
	// tokens are asked for once and renewed at four fifths of their life.
	tokens map[string]token
}

type token struct {
	value string
	renew time.Time
}

func newVolumes(client kubernetes.Interface, object *corev1.Pod, dir string) *volumes {
	return &volumes{client, object, filepath.Join(dir, "volumes"), map[string]token{}}
}

func (v *volumes) keepFresh(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(volumeRefresh):
		}
		if err := v.write(ctx); err != nil && ctx.Err() == nil {
			fmt.Fprintf(os.Stderr, "lab: volumes of %s/%s: %v\n", v.object.Namespace, v.object.Name, err)
		}
	}
}

// write brings every volume to what the API server says now.
func (v *volumes) write(ctx context.Context) error {
	for _, volume := range v.object.Spec.Volumes {
		files, err := v.content(ctx, volume)
		if err != nil {
			return fmt.Errorf("volume %s: %w", volume.Name, err)
		}
		if err := settle(filepath.Join(v.dir, volume.Name), files, volume.EmptyDir != nil); err != nil {
			return err
		}
	}
	return nil
}

func (v *volumes) content(ctx context.Context, volume corev1.Volume) (map[string][]byte, error) {
	switch {
	case volume.EmptyDir != nil:
		return nil, nil
	case volume.Secret != nil:
		return v.secret(ctx, volume.Secret.SecretName, volume.Secret.Items, volume.Secret.Optional)
	case volume.ConfigMap != nil:
		return v.configMap(ctx, volume.ConfigMap.Name, volume.ConfigMap.Items, volume.ConfigMap.Optional)
	case volume.Projected != nil:
		return v.projected(ctx, volume)
	}
	return nil, fmt.Errorf("this kind of volume is not known here")
}

func (v *volumes) projected(ctx context.Context, volume corev1.Volume) (map[string][]byte, error) {
	all := map[string][]byte{}
	for index, source := range volume.Projected.Sources {
		var files map[string][]byte
		var err error
		switch {
		case source.Secret != nil:
			files, err = v.secret(ctx, source.Secret.Name, source.Secret.Items, source.Secret.Optional)
		case source.ConfigMap != nil:
			files, err = v.configMap(ctx, source.ConfigMap.Name, source.ConfigMap.Items, source.ConfigMap.Optional)
		case source.ServiceAccountToken != nil:
			files, err = v.accountToken(ctx, fmt.Sprintf("%s/%d", volume.Name, index), source.ServiceAccountToken)
		case source.DownwardAPI != nil:
			files, err = downward(v.object, source.DownwardAPI.Items)
		default:
			err = fmt.Errorf("this projected source is not known here")
		}
		if err != nil {
			return nil, err
		}
		for name, text := range files {
			all[name] = text
		}
	}
	return all, nil
}

func downward(object *corev1.Pod, items []corev1.DownwardAPIVolumeFile) (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, item := range items {
		if item.FieldRef == nil {
			return nil, fmt.Errorf("resources in a downward volume are not known here")
		}
		value, err := field(object, "", item.FieldRef.FieldPath)
		if err != nil {
			return nil, err
		}
		files[item.Path] = []byte(value)
	}
	return files, nil
}

func ignoreOptional(err error, optional *bool) error {
	if apierrors.IsNotFound(err) && optional != nil && *optional {
		return nil
	}
	return err
}

func (v *volumes) secret(ctx context.Context, name string, items []corev1.KeyToPath, optional *bool) (map[string][]byte, error) {
	secret, err := v.client.CoreV1().Secrets(v.object.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, ignoreOptional(err, optional)
	}
	return choose(secret.Data, items), nil
}

func (v *volumes) configMap(ctx context.Context, name string, items []corev1.KeyToPath, optional *bool) (map[string][]byte, error) {
	config, err := v.client.CoreV1().ConfigMaps(v.object.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, ignoreOptional(err, optional)
	}
	data := map[string][]byte{}
	for key, value := range config.Data {
		data[key] = []byte(value)
	}
	for key, value := range config.BinaryData {
		data[key] = value
	}
	return choose(data, items), nil
}

func choose(data map[string][]byte, items []corev1.KeyToPath) map[string][]byte {
	if len(items) == 0 {
		return data
	}
	files := map[string][]byte{}
	for _, item := range items {
		if text, found := data[item.Key]; found {
			files[item.Path] = text
		}
	}
	return files
}

func (v *volumes) accountToken(ctx context.Context, key string, want *corev1.ServiceAccountTokenProjection) (map[string][]byte, error) {
	have, found := v.tokens[key]
	if !found || time.Now().After(have.renew) {
		request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
			ExpirationSeconds: want.ExpirationSeconds,
			BoundObjectRef:    &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: v.object.Name, UID: v.object.UID},
		}}
		if want.Audience != "" {
			request.Spec.Audiences = []string{want.Audience}
		}
		answer, err := v.client.CoreV1().ServiceAccounts(v.object.Namespace).CreateToken(ctx, v.object.Spec.ServiceAccountName, request, metav1.CreateOptions{})
		if err != nil {
			return nil, err
		}
		life := time.Until(answer.Status.ExpirationTimestamp.Time)
		have = token{answer.Status.Token, time.Now().Add(life * 4 / 5)}
		v.tokens[key] = have
	}
	return map[string][]byte{want.Path: []byte(have.value)}, nil
}

// settle makes a folder hold exactly these files; an emptyDir keeps what the program wrote.
func settle(folder string, files map[string][]byte, keep bool) error {
	if err := os.MkdirAll(folder, 0o777); err != nil || keep {
		return err
	}
	for name, text := range files {
		path := filepath.Join(folder, name)
		if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, text) {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path+".fresh", text, 0o644); err != nil {
			return err
		}
		if err := os.Rename(path+".fresh", path); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if _, wanted := files[entry.Name()]; !wanted && !entry.IsDir() && !strings.HasSuffix(entry.Name(), ".fresh") {
			if err := os.Remove(filepath.Join(folder, entry.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
