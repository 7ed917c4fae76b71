// Command dockerfile reads a Dockerfile from its input as BuildKit does and prints its stages as JSON; a fault ends it with 1.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

type stage struct {
	Name         string   `json:"name"`
	Base         string   `json:"base"`
	Instructions []string `json:"instructions"`
}

func run() error {
	tree, err := parser.Parse(os.Stdin)
	if err != nil {
		return err
	}
	var complaints []string
	warn := func(rule, description, _, message string, location []parser.Range) {
		line := 0
		if len(location) > 0 {
			line = location[0].Start.Line
		}
		complaints = append(complaints, fmt.Sprintf("line %d: %s: %s (%s)", line, rule, message, description))
	}
	parsed, _, err := instructions.Parse(tree.AST, linter.New(&linter.Config{Warn: warn}))
	if err != nil {
		return err
	}
	for _, warning := range tree.Warnings {
		complaints = append(complaints, warning.Short)
	}
	if len(complaints) > 0 {
		return fmt.Errorf("%q", complaints)
	}
	stages := make([]stage, 0, len(parsed))
	for _, one := range parsed {
		texts := make([]string, 0, len(one.Commands))
		for _, command := range one.Commands {
			texts = append(texts, fmt.Sprint(command))
		}
		stages = append(stages, stage{Name: one.Name, Base: one.BaseName, Instructions: texts})
	}
	return json.NewEncoder(os.Stdout).Encode(stages)
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
