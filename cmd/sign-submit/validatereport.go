package main

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/sign"
	"github.com/signfleet/signfleet/internal/submit"
)

// Forms of a report.
const outputYAML = "yaml"

var reportFormats = []string{outputJSON, outputYAML, outputCSV}

// validationCounts are the lines of the list by what they come to.
type validationCounts struct {
	Images     int `json:"images"`
	Valid      int `json:"valid"`
	NotValid   int `json:"not_valid"`
	Skipped    int `json:"skipped"`
	Unreadable int `json:"errors"`
	NotDone    int `json:"not_done"`
	// Hidden is how many valid signatures cosign verify does not find, from
	// version 3.
	Hidden     int    `json:"hidden"`
	FailedList string `json:"failed_list,omitempty"`
	Reasons    string `json:"failed_reasons,omitempty"`
}

func (c *validationCounts) add(l validatedLine) {
	c.Images++
	switch l.Result {
	case lineValid:
		c.Valid++
	case lineNotValid:
		c.NotValid++
	case lineSkipped:
		c.Skipped++
	case lineError:
		c.Unreadable++
	case lineNotDone:
		c.NotDone++
	}
	for _, d := range l.Digests {
		if d.Hidden {
			c.Hidden++
		}
	}
}

func (c *validationCounts) progress() string {
	return fmt.Sprintf("%d done: %d valid, %d not valid, %d skipped, %d errors", c.Images-c.NotDone, c.Valid, c.NotValid, c.Skipped, c.Unreadable)
}

// printValidation sums up.
func printValidation(out io.Writer, output string, c validationCounts) error {
	if output == outputJSON {
		return printJSON(out, c)
	}
	var text strings.Builder
	say(&text, "%d images: %d valid, %d not valid, %d skipped, %d errors", c.Images, c.Valid, c.NotValid, c.Skipped, c.Unreadable)
	if c.NotDone > 0 {
		say(&text, ", %d not done", c.NotDone)
	}
	say(&text, "\n")
	if c.FailedList != "" {
		say(&text, "failed list: %s, reasons: %s\n", c.FailedList, c.Reasons)
	}
	if c.Hidden > 0 {
		say(&text, "%d valid signatures are hidden from cosign verify 3 by bundles of others; sign with --format tag,referrer\n", c.Hidden)
	}
	_, err := io.WriteString(out, text.String())
	return err
}

// checkReport refuses a report that cannot be written, or only by destroying
// something else.
func (v *validating) checkReport() error {
	if v.Report == "" {
		if v.ReportFormat != "" {
			return errors.New("report-format only goes with --report, the file to write")
		}
		return nil
	}
	format, err := reportFormat(v.Report, v.ReportFormat)
	if err != nil {
		return err
	}
	v.ReportFormat = format
	for _, other := range append(v.inputs(), v.File, v.Failed, submit.DetailsPath(v.Failed)) {
		if submit.SameFile(v.Report, other) || filepath.Clean(v.Report) == filepath.Clean(other) {
			return fmt.Errorf("report: %s is used for something else already: give another name", v.Report)
		}
	}
	if info, err := os.Stat(v.Report); err == nil && info.IsDir() {
		return fmt.Errorf("report: %s is a directory", v.Report)
	}
	return nil
}

func reportFormat(path, given string) (string, error) {
	format := strings.ToLower(given)
	if format == "" {
		format = strings.TrimPrefix(strings.ToLower(filepath.Ext(path)), ".")
	}
	if format == "yml" {
		format = outputYAML
	}
	switch {
	case slices.Contains(reportFormats, format):
		return format, nil
	case given != "":
		return "", fmt.Errorf("report-format: %q is none of %s", given, strings.Join(reportFormats, ", "))
	}
	return "", fmt.Errorf("report: the extension of %s is none of .json, .yaml, .csv: say with --report-format what to write", path)
}

// validationReport is written as the lines come, and gets its name when it is
// whole. Without a file it is nothing.
type validationReport struct {
	path string
	file *os.File
	out  *bufio.Writer
	form reportForm
	temp bool // it has not got its name yet
}

// reportForm is how a report is written.
type reportForm interface {
	begin() error
	add(l validatedLine) error
	end(c validationCounts) error
}

func newValidationReport(path, format string) (*validationReport, error) {
	r := &validationReport{path: path}
	if path == "" {
		return r, nil
	}
	var err error
	if info, statErr := os.Stat(path); statErr == nil && !info.Mode().IsRegular() {
		r.file, err = os.OpenFile(path, os.O_WRONLY, 0) //nolint:gosec // G304: the user's own choice
	} else {
		r.temp = true
		r.file, err = os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	}
	if err != nil {
		if wrong := new(fs.PathError); errors.As(err, &wrong) {
			err = wrong.Err // its path is that of a temporary file
		}
		return nil, fmt.Errorf("report: %s cannot be written: %w", path, err)
	}
	r.out = bufio.NewWriterSize(r.file, 64<<10)
	switch format {
	case outputCSV:
		r.form = reportCSV{csv.NewWriter(r.out)}
	case outputYAML:
		r.form = &reportYAML{out: r.out}
	default:
		r.form = &reportJSON{out: r.out}
	}
	if err := r.form.begin(); err != nil {
		r.discard()
		return nil, err
	}
	return r, nil
}

func (r *validationReport) add(l validatedLine) error {
	if r.file == nil {
		return nil
	}
	if err := r.form.add(l); err != nil {
		return fmt.Errorf("write the report %s: %w", r.path, err)
	}
	return nil
}

// finish gives the report its name.
func (r *validationReport) finish(c validationCounts) error {
	if r.file == nil {
		return nil
	}
	err := errors.Join(r.form.end(c), r.out.Flush())
	if r.temp {
		err = errors.Join(err, r.file.Chmod(0o644), r.file.Sync())
	}
	err = errors.Join(err, r.file.Close())
	if err == nil && r.temp {
		err = os.Rename(r.file.Name(), r.path)
	}
	if err != nil {
		return fmt.Errorf("write the report %s: %w", r.path, err)
	}
	r.file = nil
	return nil
}

// discard leaves nothing of a report that has not come to its end.
func (r *validationReport) discard() {
	if r.file == nil {
		return
	}
	_ = r.file.Close()
	if r.temp {
		_ = os.Remove(r.file.Name())
	}
	r.file = nil
}

// reportJSON is one object, with a line of the list after the other under results.
type reportJSON struct {
	out io.Writer
	any bool
}

func (w *reportJSON) begin() error {
	_, err := io.WriteString(w.out, "{\n  \"results\": [")
	return err
}

func (w *reportJSON) add(l validatedLine) error {
	data, err := json.MarshalIndent(l, "    ", "  ")
	if err != nil {
		return err
	}
	separator := "\n    "
	if w.any {
		separator = ",\n    "
	}
	w.any = true
	_, err = fmt.Fprintf(w.out, "%s%s", separator, data)
	return err
}

func (w *reportJSON) end(c validationCounts) error {
	data, err := json.MarshalIndent(c, "  ", "  ")
	if err != nil {
		return err
	}
	closing := "]"
	if w.any {
		closing = "\n  ]"
	}
	_, err = fmt.Fprintf(w.out, "%s,\n  \"summary\": %s\n}\n", closing, data)
	return err
}

// reportYAML has the same content in the same order.
type reportYAML struct {
	out io.Writer
	any bool
}

func (w *reportYAML) begin() error { return nil }

func (w *reportYAML) add(l validatedLine) error {
	if !w.any {
		if _, err := io.WriteString(w.out, "results:\n"); err != nil {
			return err
		}
	}
	w.any = true
	text, err := inYAML([]validatedLine{l})
	if err != nil {
		return err
	}
	_, err = w.out.Write(text)
	return err
}

func (w *reportYAML) end(c validationCounts) error {
	if !w.any {
		if _, err := io.WriteString(w.out, "results: []\n"); err != nil {
			return err
		}
	}
	text, err := inYAML(map[string]validationCounts{"summary": c})
	if err != nil {
		return err
	}
	_, err = w.out.Write(text)
	return err
}

// inYAML writes what would be written as JSON: that is YAML too, but for its looks.
func inYAML(value any) ([]byte, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	var node yaml.Node
	if err := yaml.Unmarshal(escaped(data), &node); err != nil {
		return nil, err
	}
	inBlocks(&node)
	var text bytes.Buffer
	encoder := yaml.NewEncoder(&text)
	encoder.SetIndent(2)
	err = errors.Join(encoder.Encode(&node), encoder.Close())
	return text.Bytes(), err
}

// escaped is JSON without the characters that may stand as they are in it, and
// may not in YAML.
func escaped(data []byte) []byte {
	refused := func(r rune) bool { return r >= 0x7f && r <= 0x9f || r == 0xfeff || r == 0xfffe || r == 0xffff }
	if bytes.IndexFunc(data, refused) < 0 {
		return data
	}
	var text bytes.Buffer
	for _, r := range string(data) {
		if refused(r) {
			fmt.Fprintf(&text, `\u%04x`, r)
		} else {
			text.WriteRune(r)
		}
	}
	return text.Bytes()
}

// plainInYAML are the texts that nothing takes for something else, neither by
// YAML 1.2 nor by 1.1, which knows more booleans and numbers.
var plainInYAML = regexp.MustCompile(`^[A-Za-z/][A-Za-z0-9/._@-]{3,}(:[A-Za-z0-9._/@-]+)*$`)

// inBlocks takes braces and brackets away, and quotes where they say nothing.
func inBlocks(node *yaml.Node) {
	node.Style &^= yaml.FlowStyle
	if plainInYAML.MatchString(node.Value) && !slices.Contains([]string{"true", "false", "null"}, strings.ToLower(node.Value)) {
		node.Style &^= yaml.DoubleQuotedStyle
	}
	for _, part := range node.Content {
		inBlocks(part)
	}
}

// reportCSV has a row for each digest, and one for a line without any.
type reportCSV struct{ *csv.Writer }

func (w reportCSV) begin() error {
	return w.Write([]string{"line", "reference", "result", "image", "platform", "digest", "verdict", "reason", "key", "format", "identity", "hidden", "warnings"})
}

func (w reportCSV) add(l validatedLine) error {
	if len(l.Digests) == 0 {
		return w.Write([]string{textInCSV(l.Line), l.Reference, l.Result, l.Digest, "", "", l.Class, l.Reason, "", "", "", "false", ""})
	}
	for _, d := range l.Digests {
		keys, formats, identities := verified(d)
		err := w.Write([]string{textInCSV(l.Line), l.Reference, l.Result, l.Digest, d.Platform, d.Digest, string(d.Verdict), d.Reason,
			keys, formats, identities, strconv.FormatBool(d.Hidden), strings.Join(d.Warnings, "; ")})
		if err != nil {
			return err
		}
	}
	return nil
}

// textInCSV is a line as readers of CSV can read it.
func textInCSV(line queue.Text) string { return strings.ToValidUTF8(string(line), "\uFFFD") }

// verified are keys, formats and identities of the signatures that one of the
// keys has verified.
func verified(d sign.VerifiedDigest) (keys, formats, identities string) {
	var all [3][]string
	for _, f := range d.Signatures {
		if !f.Verified {
			continue
		}
		for i, text := range []string{f.Key, string(f.Format), f.Identity} {
			if text != "" && !slices.Contains(all[i], text) {
				all[i] = append(all[i], text)
			}
		}
	}
	return strings.Join(all[0], " "), strings.Join(all[1], " "), strings.Join(all[2], " ")
}

func (w reportCSV) end(validationCounts) error {
	w.Flush()
	return w.Error()
}
