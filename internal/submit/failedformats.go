package submit

import (
	"bufio"
	"encoding/csv"
	"encoding/json"
	"io"
	"strconv"
)

// WriteText writes the lines of the failed list as their author wrote them. Of
// a request that could not be read there may be none.
func (r *Report) WriteText(w io.Writer) error {
	out := bufio.NewWriter(w)
	for f, err := range r.Failures() {
		if err != nil {
			return err
		}
		if f.Line == "" {
			continue
		}
		if _, err := out.WriteString(string(f.Line) + "\n"); err != nil {
			return err
		}
	}
	return out.Flush()
}

// WriteJSON writes the failed list with what is known of each line, as one
// object: the batch and, under failed, what a [Failure] says. A line that is no
// text is an object with its bytes in base64.
func (r *Report) WriteJSON(w io.Writer) error {
	out := bufio.NewWriter(w)
	batch, err := json.Marshal(r.Batch)
	if err != nil {
		return err
	}
	separator := "{\n  \"batch\": " + string(batch) + ",\n  \"failed\": ["
	end := "]\n}\n"
	for f, err := range r.Failures() {
		if err != nil {
			return err
		}
		data, err := json.MarshalIndent(f, "    ", "  ")
		if err != nil {
			return err
		}
		if _, err := out.WriteString(separator + "\n    " + string(data)); err != nil {
			return err
		}
		separator, end = ",", "\n  ]\n}\n"
	}
	if r.Listed == 0 {
		end = separator + end
	}
	if _, err := out.WriteString(end); err != nil {
		return err
	}
	return out.Flush()
}

// WriteCSV writes the failed list as a table with a head.
func (r *Report) WriteCSV(w io.Writer) error {
	out := csv.NewWriter(w)
	if err := out.Write([]string{"line", "reference", "verdict", "class", "reason", "attempts"}); err != nil {
		return err
	}
	for f, err := range r.Failures() {
		if err != nil {
			return err
		}
		if err := out.Write([]string{string(f.Line), f.Reference, f.Verdict, f.Class, f.Reason, strconv.Itoa(f.Attempts)}); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}
