package imagelist

import (
	"fmt"
	"strings"

	dockerref "github.com/distribution/reference"
)

// library is the project of a name that has none.
const library = "library"

// Options say where the images of a list are, when that is elsewhere than the
// list says. They are what the registry and project flags of hangar sign do,
// on references that were completed first as Docker does it:
//
//	line               Registry R       Project P          both
//	nginx              R/library/nginx  docker.io/P/nginx  R/P/nginx
//	user/nginx         R/user/nginx     docker.io/P/nginx  R/P/nginx
//	reg.io/proj/nginx  R/proj/nginx     reg.io/P/nginx     R/P/nginx
//	reg.io/proj/a/b    R/proj/a/b       reg.io/P/a/b       R/P/a/b
//	reg.io/nginx       R/library/nginx  reg.io/P/nginx     R/P/nginx
//
// Tags and digests stay. A name of one part has no project to replace: Project
// is put before it, and where only Registry is set it goes to the project
// "library", on any registry. Without overrides a name of one part is completed
// with "library" on docker.io alone and stays as it is elsewhere, where hangar
// would look for reg.io/library/nginx.
type Options struct {
	// Registry replaces the registry of every line: a host with a dot, a
	// port, or localhost. Empty leaves it.
	Registry string
	// Project replaces the first part of every repository and keeps the
	// others. It may have several parts itself. Empty leaves it.
	Project string
}

// Validate says which override cannot be part of a reference, and why.
func (o Options) Validate() error {
	_, err := o.override()
	return err
}

// override is what the options come to once they are checked.
type override struct {
	registry string
	project  string
}

func (o Options) override() (override, error) {
	over := override{project: o.Project}
	if o.Registry != "" {
		registry, err := parseRegistry(o.Registry)
		if err != nil {
			return override{}, err
		}
		over.registry = registry
	}
	if o.Project != "" {
		path := o.Project + "/name"
		named, err := dockerref.ParseNormalizedNamed("localhost/" + path)
		if err != nil || dockerref.Path(named) != path {
			return override{}, fmt.Errorf("project %q is not valid: write it as it stands in a repository, like team or team/prod, in lower case", o.Project)
		}
	}
	return over, nil
}

// parseRegistry checks the host of a registry and gives docker.io its one name.
func parseRegistry(host string) (string, error) {
	if scheme, rest, ok := strings.Cut(host, "://"); ok {
		return "", fmt.Errorf("registry %q is not valid: leave %q out and write %q", host, scheme+"://", strings.TrimRight(rest, "/"))
	}
	if before, after, ok := strings.Cut(host, "/"); ok {
		if after == "" {
			return "", fmt.Errorf("registry %q is not valid: leave the slash out and write %q", host, before)
		}
		return "", fmt.Errorf("registry %q is not valid: write the host alone, %q, and put %q into the project", host, before, after)
	}
	named, err := dockerref.ParseNormalizedNamed(host + "/" + library + "/name")
	if err != nil {
		return "", fmt.Errorf("registry %q is not valid: write a host, like registry.example.com or registry.example.com:5000", host)
	}
	if dockerref.Path(named) != library+"/name" || !isRegistry(dockerref.Domain(named)) {
		return "", fmt.Errorf("registry %q would be read as a project of docker.io: write its full name or its port, like %q", host, host+":443")
	}
	return dockerref.Domain(named), nil
}

// apply puts the overrides into a completed reference. The reason is empty
// unless the result is no reference any more.
func (over override) apply(named dockerref.Named) (ref reference, reason string) {
	if over == (override{}) {
		return retag(named, named), ""
	}
	domain, path := dockerref.Domain(named), dockerref.Path(named)
	project, rest, ok := strings.Cut(path, "/")
	if !ok {
		rest, project = project, ""
	}
	if over.registry != "" {
		domain = over.registry
		if project == "" {
			project = library
		}
	}
	if over.project != "" {
		project = over.project
	}
	name := domain + "/"
	if project != "" {
		name += project + "/"
	}
	moved, err := dockerref.WithName(name + rest)
	if err != nil {
		return reference{}, "with the registry and project overrides: " + tooLong
	}
	return retag(moved, named), ""
}

// retag gives a name the tag and the digest that another had.
func retag(name, old dockerref.Named) reference {
	ref := reference{text: name.Name()}
	if tagged, ok := old.(dockerref.Tagged); ok {
		ref.text += ":" + tagged.Tag()
	}
	if digested, ok := old.(dockerref.Digested); ok {
		ref.digest = digested.Digest().String()
		ref.text += "@" + ref.digest
	}
	return ref
}
