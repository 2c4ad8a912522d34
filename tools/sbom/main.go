// Command sbom makes an SBOM that cyclonedx-gomod wrote the same wherever it was made: it
// replaces the time, which is the present, and leaves out the hashes of the tool itself,
// a program that each machine builds for itself.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/CycloneDX/cyclonedx-go"
)

func main() {
	epoch := flag.Int64("time", 0, "when it was made, in `SECONDS` since 1970")
	flag.Parse()
	if err := clean(flag.Arg(0), time.Unix(*epoch, 0)); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

// clean rewrites a file.
func clean(name string, made time.Time) error {
	in, err := os.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	var bom cyclonedx.BOM
	if err := cyclonedx.NewBOMDecoder(in, cyclonedx.BOMFileFormatJSON).Decode(&bom); err != nil {
		return err
	}
	if bom.Metadata == nil || bom.Metadata.Tools == nil || bom.Metadata.Tools.Tools == nil {
		return fmt.Errorf("%s does not say which tool made it", name)
	}
	bom.Metadata.Timestamp = made.UTC().Format(time.RFC3339)
	for i := range *bom.Metadata.Tools.Tools {
		(*bom.Metadata.Tools.Tools)[i].Hashes = nil
	}
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	defer out.Close()
	return cyclonedx.NewBOMEncoder(out, cyclonedx.BOMFileFormatJSON).SetPretty(true).Encode(&bom)
}
