package main

import (
	"fmt"
	"slices"
)

// cost is what one path took in one round.
type cost struct{ cpuMicros, allocations float64 } // per call

func cpuMicros(c cost) float64   { return c.cpuMicros }
func allocations(c cost) float64 { return c.allocations }

// ratio is the spread of the ratios of costs that were taken in the same round.
func (c comparison) ratio(what func(cost) float64) spread {
	ratios := make([]float64, len(c.of.costs))
	for i := range ratios {
		ratios[i] = what(c.of.costs[i]) / what(c.against.costs[i])
	}
	return newSpread(ratios)
}

func spreadOf(costs []cost, what func(cost) float64) spread {
	values := make([]float64, len(costs))
	for i := range values {
		values[i] = what(costs[i])
	}
	return newSpread(values)
}

// spread is the middle of some measurements, and of its halves.
type spread struct{ low, median, high float64 }

// newSpread sorts values, of which there must be one at least.
func newSpread(values []float64) spread {
	slices.Sort(values)
	at := func(quantile float64) float64 {
		position := quantile * float64(len(values)-1)
		i := int(position)
		if i == len(values)-1 {
			return values[i]
		}
		return values[i] + (position-float64(i))*(values[i+1]-values[i])
	}
	return spread{at(.25), at(.5), at(.75)}
}

func (s spread) String() string { return fmt.Sprintf("%.3f (%.3f to %.3f)", s.median, s.low, s.high) }
