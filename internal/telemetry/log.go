package telemetry

import (
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/term"
)

// LogOptions say how log lines look and which are written.
type LogOptions struct {
	// Level, when set, is the least that is written, and may change while lines
	// are; Debug and Quiet then mean nothing.
	Level zap.AtomicLevel
	// Debug also writes the lines that explain the others.
	Debug bool
	// Quiet writes only warnings and errors.
	Quiet bool
	// JSON writes one JSON object a line, for machines; otherwise lines are
	// for people.
	JSON bool
	// Sampled leaves out most of a flood of lines that say the same. Those of
	// loggers that are named Whole are all written.
	Sampled bool
	Whole   string
	// OnDropped, when set, is told of each line that was left out.
	OnDropped func()
}

// Of lines that say the same within a second, the first are written, and then
// each that many.
const (
	sampleFirst = 100
	sampleEach  = 100
)

// NewLogger returns a logger that writes to w.
func NewLogger(w io.Writer, o LogOptions) *zap.Logger {
	if o.Level == (zap.AtomicLevel{}) {
		o.Level = zap.NewAtomicLevelAt(o.level())
	}
	config := zap.NewProductionEncoderConfig()
	config.EncodeTime = zapcore.RFC3339TimeEncoder
	config.EncodeDuration = zapcore.StringDurationEncoder
	encoder := zapcore.NewJSONEncoder(config)
	if !o.JSON {
		config.EncodeLevel = zapcore.LowercaseLevelEncoder
		config.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05")
		config.ConsoleSeparator = " "
		config.NameKey = "" // a person sees what a line is about
		encoder = zapcore.NewConsoleEncoder(config)
	}
	core := zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(w)), o.Level)
	if o.Sampled {
		core = newSampler(core, o)
	}
	return zap.New(core)
}

func (o LogOptions) level() zapcore.Level {
	switch {
	case o.Debug:
		return zap.DebugLevel
	case o.Quiet:
		return zap.WarnLevel
	}
	return zap.InfoLevel
}

// sampler writes a part of the lines that say the same, but all of those that
// are to be whole.
type sampler struct {
	zapcore.Core              // the lines that are sampled
	whole        zapcore.Core // those that are not
	name         string       // of the loggers that these are of
}

func newSampler(core zapcore.Core, o LogOptions) *sampler {
	hook := func(_ zapcore.Entry, decision zapcore.SamplingDecision) {
		if decision&zapcore.LogDropped != 0 && o.OnDropped != nil {
			o.OnDropped()
		}
	}
	return &sampler{
		Core:  zapcore.NewSamplerWithOptions(core, time.Second, sampleFirst, sampleEach, zapcore.SamplerHook(hook)),
		whole: core,
		name:  o.Whole,
	}
}

// With adds fields to all lines.
func (s *sampler) With(fields []zapcore.Field) zapcore.Core {
	return &sampler{Core: s.Core.With(fields), whole: s.whole.With(fields), name: s.name}
}

// Check decides on a line.
func (s *sampler) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if s.name != "" && e.LoggerName == s.name {
		return s.whole.Check(e, checked)
	}
	return s.Core.Check(e, checked)
}

// The formats of log lines.
const (
	FormatAuto    = "auto" // console on a terminal, else JSON
	FormatJSON    = "json"
	FormatConsole = "console"
)

// ParseFormat reports whether lines of a format that are written to w are JSON.
func ParseFormat(format string, w io.Writer) (json bool, err error) {
	if !slices.Contains([]string{FormatAuto, FormatJSON, FormatConsole}, format) {
		return false, fmt.Errorf("log-format: %q is none of auto, json, console", format)
	}
	file, ok := w.(*os.File)
	terminal := ok && term.IsTerminal(int(file.Fd()))
	return format == FormatJSON || format == FormatAuto && !terminal, nil
}

// ParseLevel reads debug, info, warn or error.
func ParseLevel(level string) (zapcore.Level, error) {
	if slices.Contains([]string{"debug", "info", "warn", "error"}, level) {
		return zapcore.ParseLevel(level)
	}
	return 0, fmt.Errorf("log-level: %q is none of debug, info, warn, error", level)
}
