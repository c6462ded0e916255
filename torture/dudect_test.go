package torture_test

import (
	"math"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"testing"
	"time"
	"unsafe"
)

// This is the method of Reparaz, Balasch and Verbauwhede, "Dude, is my code constant time?" (DATE
// 2017). It times a function on inputs of two classes in random order. Welch's t-test then tells
// whether both sets of times have the same mean. Interrupts cause the largest times. So the test is
// made over all times, and over the times below each of several percentiles, and the largest |t|
// counts. A |t| beyond 4.5 is a leak, which more samples make plainer.

const (
	// Each sample is the time of a batch, because one call takes hardly longer than reading the
	// clock.
	batchSize = 16
	// warmUp is how many samples come first. They set the percentiles and do not count.
	warmUp = 10_000
	// leakThreshold is the threshold of the paper.
	leakThreshold = 4.5
)

// croppings are the shares of times that are kept. They lie denser towards 1, as in the paper's
// implementation. The test over all times comes in addition.
var croppings = func() (shares []float64) {
	const n = 20
	for i := range n {
		shares = append(shares, 1-math.Pow(0.5, 10*float64(i+1)/n))
	}
	return shares
}()

// timeClasses times call on inputs of two classes, and returns the largest |t|. Both classes must
// have equally many inputs, and all inputs must have the same length.
func timeClasses(t *testing.T, random *rand.Rand, samples int, classes [2][]string, call func(input string)) float64 {
	t.Helper()
	size := len(classes[0][0])
	var inputs [2][]byte
	for c, class := range classes {
		for _, input := range class {
			if len(input) != size || len(class) != len(classes[0]) {
				t.Fatalf("inputs of %d and %d bytes, or not as many of each class", len(input), size)
			}
			inputs[c] = append(inputs[c], input...)
		}
	}
	// All random choices are made before the measurement: the class of each sample, and its first
	// input.
	total := warmUp + samples
	class := make([]uint8, total)
	first := make([]uint16, total)
	for i := range class {
		class[i] = uint8(random.IntN(2))
		first[i] = uint16(random.IntN(len(classes[0]) - batchSize))
	}
	times := make([]float64, total)

	// The inputs of both classes are copied to the same place in memory, and are in the cache when
	// the clock starts.
	stage := make([]byte, batchSize*size)
	staged := make([]string, batchSize)
	for j := range staged {
		staged[j] = unsafe.String(&stage[j*size], size)
	}

	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	runtime.GC()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	for i := range total {
		// Read the inputs of both classes, so that the state of the caches does not depend on the
		// class. Otherwise a difference of picoseconds would show.
		at, mask := int(first[i])*size, -class[i]
		a, b := inputs[0][at:], inputs[1][at:]
		for k := range stage {
			stage[k] = a[k] ^ (a[k]^b[k])&mask
		}
		start := time.Now()
		for _, input := range staged {
			call(input)
		}
		times[i] = float64(time.Since(start))
	}
	return largestT(times, class)
}

// largestT makes the t-test over all times, and over the times that each cropping keeps. It returns
// the largest |t|.
func largestT(times []float64, class []uint8) (largest float64) {
	sorted := slices.Sorted(slices.Values(times[:warmUp]))
	limits := []float64{math.Inf(1)}
	for _, share := range croppings {
		limits = append(limits, sorted[int(share*float64(len(sorted)-1))])
	}
	for _, limit := range limits {
		var m [2]moments
		for i, x := range times[warmUp:] {
			if x < limit {
				m[class[warmUp+i]].add(x)
			}
		}
		// With few samples, t is not normally distributed, and the threshold has no meaning.
		if min(m[0].n, m[1].n) > 1_000 {
			largest = max(largest, math.Abs(welch(m[0], m[1])))
		}
	}
	return largest
}

// moments are the mean of some numbers and the sum of their squared deviations, after Welford.
type moments struct{ n, mean, m2 float64 }

func (m *moments) add(x float64) {
	m.n++
	d := x - m.mean
	m.mean += d / m.n
	m.m2 += d * (x - m.mean)
}

// welch returns the t of Welch's test.
func welch(a, b moments) float64 {
	variance := a.m2/(a.n-1)/a.n + b.m2/(b.n-1)/b.n
	if variance == 0 {
		if a.mean == b.mean {
			return 0
		}
		return math.Inf(1)
	}
	return (a.mean - b.mean) / math.Sqrt(variance)
}
