// Command manifests reads what is shipped for Kubernetes, Prometheus and Grafana as
// these do, strictly, and prints what is in it as JSON, for tests to look at:
//
//	manifests kustomize DIR   the objects that a kustomization comes to
//	manifests rules FILE      the alerts of a rule file
//	manifests promql          the metrics in the queries on standard input, one a line
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "manifests:", err)
		os.Exit(1)
	}
}

func run(args []string, stdin io.Reader, stdout io.Writer) error {
	var found any
	var err error
	switch {
	case len(args) == 2 && args[0] == "kustomize":
		found, err = objects(args[1])
	case len(args) == 2 && args[0] == "rules":
		found, err = alerts(args[1])
	case len(args) == 1 && args[0] == "promql":
		found, err = metrics(stdin)
	default:
		err = errors.New("usage: manifests kustomize DIR | rules FILE | promql")
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(stdout).Encode(found)
}

// objects builds a kustomization and decodes each object strictly.
func objects(dir string) ([]json.RawMessage, error) {
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		appsv1.AddToScheme, batchv1.AddToScheme, corev1.AddToScheme, networkingv1.AddToScheme, policyv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	var all []json.RawMessage
	for _, object := range built.Resources() {
		text, err := object.AsYAML()
		if err != nil {
			return nil, err
		}
		if object.GetKind() == "ScaledObject" {
			err = yaml.UnmarshalStrict(text, new(scaledObject))
		} else {
			_, _, err = decoder.Decode(text, nil, nil)
		}
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", object.GetKind(), object.GetName(), err)
		}
		asJSON, err := yaml.YAMLToJSON(text)
		if err != nil {
			return nil, err
		}
		all = append(all, asJSON)
	}
	return all, nil
}

// scaledObject is what of KEDA's object is used
// (https://keda.sh/docs/latest/reference/scaledobject-spec/).
type scaledObject struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name      string            `json:"name"`
		Namespace string            `json:"namespace"`
		Labels    map[string]string `json:"labels"`
	} `json:"metadata"`
	Spec struct {
		ScaleTargetRef struct {
			APIVersion string `json:"apiVersion"`
			Kind       string `json:"kind"`
			Name       string `json:"name"`
		} `json:"scaleTargetRef"`
		PollingInterval int `json:"pollingInterval"`
		CooldownPeriod  int `json:"cooldownPeriod"`
		MinReplicaCount int `json:"minReplicaCount"`
		MaxReplicaCount int `json:"maxReplicaCount"`
		Advanced        struct {
			ScalingModifiers struct {
				Formula string `json:"formula"`
				Target  string `json:"target"`
			} `json:"scalingModifiers"`
		} `json:"advanced"`
		Triggers []struct {
			Type     string            `json:"type"`
			Name     string            `json:"name"`
			Metadata map[string]string `json:"metadata"`
		} `json:"triggers"`
	} `json:"spec"`
}

// alert is one of a rule file, with the metrics that it is about.
type alert struct {
	Name        string            `json:"name"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	Metrics     []string          `json:"metrics"`
}

func alerts(file string) ([]alert, error) {
	read := parser.NewParser(parser.Options{})
	groups, errs := rulefmt.ParseFile(file, false, model.UTF8Validation, read, slog.New(slog.DiscardHandler))
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	var all []alert
	for _, group := range groups.Groups {
		for _, rule := range group.Rules {
			names, err := metricsIn(read, rule.Expr)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", rule.Alert, err)
			}
			all = append(all, alert{Name: rule.Alert, Labels: rule.Labels, Annotations: rule.Annotations, Metrics: names})
		}
	}
	return all, nil
}

// metrics are those of each query.
func metrics(queries io.Reader) ([][]string, error) {
	read := parser.NewParser(parser.Options{})
	var all [][]string
	lines := bufio.NewScanner(queries)
	for lines.Scan() {
		names, err := metricsIn(read, lines.Text())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", lines.Text(), err)
		}
		all = append(all, names)
	}
	return all, lines.Err()
}

func metricsIn(read parser.Parser, query string) ([]string, error) {
	expr, err := read.ParseExpr(query)
	if err != nil {
		return nil, err
	}
	var names []string
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		if selector, ok := node.(*parser.VectorSelector); ok && !slices.Contains(names, selector.Name) {
			names = append(names, selector.Name)
		}
		return nil
	})
	return names, nil
}
