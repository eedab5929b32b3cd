package deploy_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/test/peers/build"
)

// manifests asks the program that reads what is shipped as those do that it is
// for: strictly.
func manifests(t *testing.T, stdin string, into any, args ...string) {
	t.Helper()
	path, err := build.Pinned(t.Context(), "manifests")
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	require.NoError(t, err, complaint.String())
	require.NoError(t, json.Unmarshal(out, into))
}

// object is what these tests look at of an object of Kubernetes.
type object struct {
	Kind     string            `json:"kind"`
	Metadata metadata          `json:"metadata"`
	Data     map[string]string `json:"data"`
	Spec     struct {
		Selector    json.RawMessage `json:"selector"`
		PodSelector json.RawMessage `json:"podSelector"`
		Template    struct {
			Metadata metadata `json:"metadata"`
			Spec     pod      `json:"spec"`
		} `json:"template"`
		ScaleTargetRef struct{ Kind, Name string } `json:"scaleTargetRef"`
		Advanced       struct {
			ScalingModifiers struct{ Formula string } `json:"scalingModifiers"`
		} `json:"advanced"`
		Triggers []struct {
			Name     string
			Metadata map[string]string
		} `json:"triggers"`
	} `json:"spec"`
}

type metadata struct {
	Name, Namespace string
	Labels          map[string]string
}

type pod struct {
	ServiceAccountName            string
	TerminationGracePeriodSeconds int
	SecurityContext               struct{ RunAsNonRoot bool }
	Containers                    []struct {
		Args            []string
		Env             []struct{ Name, Value string }
		Ports           []struct{ Name string }
		VolumeMounts    []struct{ Name, MountPath, SubPath string }
		SecurityContext struct{ ReadOnlyRootFilesystem, AllowPrivilegeEscalation bool }
	}
	Volumes []struct {
		Name      string
		ConfigMap *struct{ Name string }
		Secret    *struct{ SecretName string }
	}
}

func kubernetes(t *testing.T) map[string]object {
	t.Helper()
	var all []object
	manifests(t, "", &all, "kustomize", "../../deploy/kubernetes")
	byKind := make(map[string]object)
	for _, o := range all {
		byKind[o.Kind] = o
		if o.Kind != "Namespace" {
			require.Equal(t, "signfleet", o.Metadata.Namespace, o.Kind)
		}
	}
	require.Len(t, byKind, len(all), "one of each kind")
	return byKind
}

// What kustomize makes of deploy/kubernetes decodes strictly, and fits together.
func TestKubernetes(t *testing.T) {
	t.Parallel()
	all := kubernetes(t)
	for _, kind := range []string{"Namespace", "ServiceAccount", "ConfigMap", "Job", "Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy", "ScaledObject"} {
		require.Contains(t, all, kind)
	}
	deployment := all["Deployment"]
	labels := deployment.Spec.Template.Metadata.Labels
	for _, kind := range []string{"Deployment", "Service", "PodDisruptionBudget"} {
		require.Contains(t, string(all[kind].Spec.Selector), `"app.kubernetes.io/name":"`+labels["app.kubernetes.io/name"]+`"`, kind)
	}
	require.Contains(t, string(all["NetworkPolicy"].Spec.PodSelector), labels["app.kubernetes.io/name"])
	require.Contains(t, string(all["NetworkPolicy"].Spec.PodSelector), all["Job"].Spec.Template.Metadata.Labels["app.kubernetes.io/name"])

	header, err := os.ReadFile("../../deploy/kubernetes/kustomization.yaml")
	require.NoError(t, err)
	for _, kind := range []string{"Deployment", "Job"} {
		p := all[kind].Spec.Template.Spec
		require.Equal(t, all["ServiceAccount"].Metadata.Name, p.ServiceAccountName, kind)
		require.True(t, p.SecurityContext.RunAsNonRoot, kind)
		require.True(t, p.Containers[0].SecurityContext.ReadOnlyRootFilesystem, kind)
		require.False(t, p.Containers[0].SecurityContext.AllowPrivilegeEscalation, kind)
		for _, mount := range p.Containers[0].VolumeMounts {
			require.Empty(t, mount.SubPath, "a changed secret would not reach it")
		}
		for _, volume := range p.Volumes {
			switch {
			case volume.ConfigMap != nil:
				require.Equal(t, all["ConfigMap"].Metadata.Name, volume.ConfigMap.Name, kind)
			case volume.Secret != nil:
				require.Regexp(t, `create secret \S+ `+volume.Secret.SecretName+` `, string(header), "it is said how to make it")
			}
		}
	}
	require.Greater(t, deployment.Spec.Template.Spec.TerminationGracePeriodSeconds, 30, "longer than shutdown-grace")
}

// The settings in it are real ones, and name what is mounted.
func TestKubernetesHasRealSettings(t *testing.T) {
	t.Parallel()
	f := newPrograms(t)
	all := kubernetes(t)
	text := all["ConfigMap"].Data["sign-worker.yaml"]
	file := filepath.Join(t.TempDir(), "sign-worker.yaml")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	require.Contains(t, f.out(0, "sign-worker", "config", "check", "--config", file), "is good")
	container := all["Deployment"].Spec.Template.Spec.Containers[0]
	for _, path := range regexp.MustCompile(`/var/run/secrets/\S+`).FindAllString(text, -1) {
		require.True(t, slices.ContainsFunc(container.VolumeMounts, func(m struct{ Name, MountPath, SubPath string }) bool {
			return m.MountPath == filepath.Dir(path)
		}), "%s is mounted", path)
	}
	require.Contains(t, container.Args, "/etc/signfleet/sign-worker.yaml")
	require.Contains(t, text, "listen: 0.0.0.0:9464")
	setup := f.help("sign-worker", "setup")
	for _, variable := range all["Job"].Spec.Template.Spec.Containers[0].Env {
		require.Contains(t, setup, "--"+strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(variable.Name, "SIGNFLEET_")), "_", "-")+" ")
	}
}

// The fleet is scaled by all consumers together, and those are the ones that there are.
func TestKubernetesScalesByTheQueue(t *testing.T) {
	t.Parallel()
	all := kubernetes(t)
	scaled := all["ScaledObject"]
	require.Equal(t, all["Deployment"].Metadata.Name, scaled.Spec.ScaleTargetRef.Name)
	f := newFleet(t, startServer(t).url)
	setup := f.setup()
	var terms []string
	for _, trigger := range scaled.Spec.Triggers {
		require.Regexp(t, `(?m)^consumer `+trigger.Metadata["consumer"]+`: made$`, setup)
		require.Contains(t, setup, "stream "+trigger.Metadata["stream"]+": made")
		require.Equal(t, "SIGNFLEET", trigger.Metadata["account"])
		require.Regexp(t, `^[a-z0-9_]+$`, trigger.Name, "a name in a formula")
		terms = append(terms, trigger.Name)
	}
	require.Len(t, terms, strings.Count(setup, "consumer "))
	require.Equal(t, strings.Join(terms, " + "), scaled.Spec.Advanced.ScalingModifiers.Formula)
	roles, err := os.ReadFile("../../deploy/nats/roles.conf")
	require.NoError(t, err)
	require.Contains(t, string(roles), "SIGNFLEET {")
}

// alert is one of the shipped rules.
type alert struct {
	Name                string
	Labels, Annotations map[string]string
	Metrics             []string
}

func alerts(t *testing.T) (all []alert) {
	t.Helper()
	manifests(t, "", &all, "rules", "../../deploy/prometheus/alerts.yml")
	require.NotEmpty(t, all)
	return all
}

// Each alert says what it is, and where it stands what to do.
func TestAlertsAreExplained(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/operations.md")
	require.NoError(t, err)
	var explained []string
	for _, heading := range regexp.MustCompile(`(?m)^### (Signfleet\w+)$`).FindAllStringSubmatch(string(page), -1) {
		explained = append(explained, heading[1])
	}
	var names []string
	for _, a := range alerts(t) {
		names = append(names, a.Name)
		require.NotEmpty(t, a.Annotations["summary"], a.Name)
		require.NotEmpty(t, a.Annotations["description"], a.Name)
		require.Contains(t, []string{"critical", "warning", "info"}, a.Labels["severity"], a.Name)
		require.Equal(t, "docs/operations.md#"+strings.ToLower(a.Name), a.Annotations["runbook"])
	}
	require.ElementsMatch(t, names, explained)
}

// dashboard is what these tests look at of Grafana's.
type dashboard struct {
	UID    string
	Panels []struct {
		ID      int
		Title   string
		GridPos struct{ X, Y, W, H int }
		Targets []struct{ RefID, Expr string }
	}
	Templating struct {
		List []struct{ Name, Query any }
	}
}

func readDashboard(t *testing.T) (d dashboard, queries []string) {
	t.Helper()
	text, err := os.ReadFile("../../deploy/grafana/dashboards/signfleet.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &d))
	for _, panel := range d.Panels {
		require.NotEmpty(t, panel.Targets, panel.Title)
		for _, target := range panel.Targets {
			queries = append(queries, strings.ReplaceAll(target.Expr, "$__rate_interval", "1m"))
		}
	}
	return d, queries
}

func TestDashboard(t *testing.T) {
	t.Parallel()
	d, queries := readDashboard(t)
	require.NotEmpty(t, queries)
	taken := make(map[[2]int]string)
	ids := make(map[int]bool)
	for _, panel := range d.Panels {
		require.False(t, ids[panel.ID], "%s has an id of its own", panel.Title)
		ids[panel.ID] = true
		at := panel.GridPos
		require.LessOrEqual(t, at.X+at.W, 24, panel.Title)
		for x := range at.W {
			for y := range at.H {
				place := [2]int{at.X + x, at.Y + y}
				require.Empty(t, taken[place], "%s lies over %s", panel.Title, taken[place])
				taken[place] = panel.Title
			}
		}
	}
	// Its data is where the shipped Grafana looks for it.
	for file, says := range map[string]string{
		"provisioning/datasources/prometheus.yml": "uid: prometheus", "provisioning/dashboards/signfleet.yml": "path: /var/lib/grafana/dashboards",
	} {
		text, err := os.ReadFile("../../deploy/grafana/" + file)
		require.NoError(t, err)
		require.Contains(t, string(text), says)
	}
	compose, err := os.ReadFile("../../deploy/compose.yaml")
	require.NoError(t, err)
	require.Contains(t, string(compose), "target: /var/lib/grafana/dashboards/signfleet.json")
	var metrics [][]string
	manifests(t, strings.Join(queries, "\n")+"\n", &metrics, "promql")
	require.Len(t, metrics, len(queries))
}

// What alerts and dashboard ask for is what a worker tells: of one that has signed,
// failed, waited and left a registry alone.
func TestAlertsAndDashboardAskForRealMetrics(t *testing.T) {
	t.Parallel()
	f := newFleet(t, startServer(t).url)
	f.setup()
	worker := f.worker("--listen", "127.0.0.1:0", "--breaker-failures", "1", "--attempts", "1", "--host-rate", "20")
	address := regexp.MustCompile(`"address":"([^"]+)"`).FindStringSubmatch(worker.Output())[1]
	f.run(1, "submitter", "sign-submit", "--failed", filepath.Join(f.home, "failed.txt"), "--file",
		f.list("images.txt", f.push("a/b:1"), f.push("a/b:2"), f.push("a/b:3"), "127.0.0.1:1/away:1"))
	text := f.scrape(address)

	asked := make(map[string][]string)
	for _, a := range alerts(t) {
		for _, metric := range a.Metrics {
			asked[metric] = append(asked[metric], a.Name)
		}
	}
	d, queries := readDashboard(t)
	var metrics [][]string
	manifests(t, strings.Join(queries, "\n")+"\n", &metrics, "promql")
	for i, names := range metrics {
		for _, metric := range names {
			asked[metric] = append(asked[metric], queries[i])
		}
	}
	require.NotEmpty(t, d.Panels)
	for metric, by := range asked {
		require.Regexp(t, `(?m)^`+metric+`(\{.*\})? `, text, "%s is asked for by %v", metric, by)
	}
	// Labels that are asked for are there, too.
	for _, label := range []string{"outcome", "class", "lane", "stage", "consumer", "stream", "server_address", "http_response_status_code", "error_type", "result", "format", "already"} {
		require.Contains(t, text, label+`="`)
	}
}
