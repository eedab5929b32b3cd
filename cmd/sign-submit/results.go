package main

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/signfleet/signfleet/internal/submit"
)

const resultsLong = `results prints every signature of a batch: of which image and digest, for which
platform, with which key, how it is attached and where, by what name where there
are several, and whether it is hidden from cosign verify (--report-hidden).

Without --nats-url it looks into the state directories of the submissions that
sign in their own process.

Exit status: 0 printed, 1 an error, 2 a mistake in the settings.`

const resultsExample = `  sign-submit results nightly --nats-url nats://nats.example.org:4222 --output json
  sign-submit results nightly --output csv`

func resultsCommand(std streams) *cobra.Command {
	command := &cobra.Command{
		Use: "results BATCH", Short: "Print every signature of a batch", Long: resultsLong, Example: resultsExample,
		Args: oneBatch,
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := readAsking(cmd.Flags(), std, outputText, outputJSON, outputCSV)
			if err != nil {
				return err
			}
			return a.results(cmd.Context(), args[0], std)
		},
	}
	askingFlags(command.Flags(), "the results", outputText, outputJSON, outputCSV)
	return command
}

// results prints the signatures of a batch, as they come: of a large batch
// there are millions.
func (a *asking) results(ctx context.Context, id string, std streams) error {
	batch, where, err := a.find(ctx, id)
	if err != nil {
		return err
	}
	defer where.close()
	out := bufio.NewWriter(std.out)
	var to resultWriter
	switch a.Output {
	case outputJSON:
		to = &resultsJSON{out: out, batch: id}
	case outputCSV:
		to = resultsCSV{csv.NewWriter(out)}
	default:
		to = &resultsText{out: out}
	}
	err = to.begin()
	if err == nil {
		err = batch.Results(ctx, to.add)
	}
	if err == nil {
		err = to.end()
	}
	return a.explain(ctx, id, errors.Join(err, out.Flush()))
}

// resultWriter writes results one after the other.
type resultWriter interface {
	begin() error
	add(r submit.Result) error
	end() error
}

// resultsJSON writes one document, without holding it.
type resultsJSON struct {
	out   io.Writer
	batch string
	any   bool
}

func (w *resultsJSON) begin() error {
	_, err := fmt.Fprintf(w.out, "{\n  \"batch\": %q,\n  \"results\": [", w.batch)
	return err
}

func (w *resultsJSON) add(r submit.Result) error {
	data, err := json.MarshalIndent(r, "    ", "  ")
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

func (w *resultsJSON) end() error {
	last := "]\n}\n"
	if w.any {
		last = "\n  ]\n}\n"
	}
	_, err := io.WriteString(w.out, last)
	return err
}

type resultsCSV struct{ *csv.Writer }

func (w resultsCSV) begin() error {
	return w.Write([]string{"batch", "line", "reference", "image", "platform", "digest", "key", "format", "attachment", "already", "finished_at", "identity", "hidden"})
}

func (w resultsCSV) add(r submit.Result) error {
	return w.Write([]string{r.Batch, string(r.Line), r.Reference, r.Image, r.Platform, r.Digest, r.Key, r.Format, r.Attachment,
		strconv.FormatBool(r.Already), r.FinishedAt.Format(time.RFC3339Nano), r.Identity, strconv.FormatBool(r.Hidden)})
}

func (w resultsCSV) end() error {
	w.Flush()
	return w.Error()
}

// resultsAligned is how many lines have their columns aligned with each other.
const resultsAligned = 1000

// resultsText writes a line for each signature.
type resultsText struct {
	out  io.Writer
	page table
	rows int
}

func (w *resultsText) begin() error {
	w.page = newTable(w.out, "IMAGE", "PLATFORM", "DIGEST", "KEY", "FORMAT", "IDENTITY")
	return nil
}

func (w *resultsText) add(r submit.Result) error {
	format := r.Format
	if r.Hidden {
		format += " (hidden)"
	}
	w.page.row(r.Reference, r.Platform, r.Digest, shortened(r.Key), format, r.Identity)
	if w.rows++; w.rows%resultsAligned != 0 {
		return nil
	}
	return w.page.end()
}

// shortened is a fingerprint for people, who have few keys.
func shortened(key string) string { return key[:min(len(key), len("sha256:")+12)] }

func (w *resultsText) end() error { return w.page.end() }
