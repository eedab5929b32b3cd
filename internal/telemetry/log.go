// Package telemetry makes what the programs report about themselves with.
//
// It decides the shape of a log line. It does not know what is worth one.
package telemetry

import (
	"io"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// LogOptions say how log lines look and which are written.
type LogOptions struct {
	// Debug also writes the lines that explain the others.
	Debug bool
	// JSON writes one JSON object a line, for machines; otherwise lines are
	// for people.
	JSON bool
	// Quiet writes only warnings and errors.
	Quiet bool
}

// NewLogger returns a logger that writes to w.
func NewLogger(w io.Writer, o LogOptions) *zap.Logger {
	level := zapcore.InfoLevel
	switch {
	case o.Debug:
		level = zapcore.DebugLevel
	case o.Quiet:
		level = zapcore.WarnLevel
	}
	config := zap.NewProductionEncoderConfig()
	config.EncodeTime = zapcore.RFC3339TimeEncoder
	config.EncodeDuration = zapcore.StringDurationEncoder
	encoder := zapcore.NewJSONEncoder(config)
	if !o.JSON {
		config.EncodeLevel = zapcore.LowercaseLevelEncoder
		config.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05")
		config.ConsoleSeparator = " "
		encoder = zapcore.NewConsoleEncoder(config)
	}
	return zap.New(zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(w)), level))
}
