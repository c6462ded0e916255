package names

// FirstFree returns the first number from 0 that is free, if all numbers before it are taken. It
// searches by doubling and bisection, so it calls taken few times.
//
// It returns taken's error.
func FirstFree(taken func(number uint64) (bool, error)) (uint64, error) {
	// All numbers before low are taken. In the end, the number high is free.
	low, high := uint64(0), uint64(0)
	for {
		yes, err := taken(high)
		if err != nil {
			return 0, err
		}
		if !yes {
			break
		}
		low, high = high+1, 2*high+1
	}
	for low < high {
		middle := low + (high-low)/2
		yes, err := taken(middle)
		if err != nil {
			return 0, err
		}
		if yes {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return low, nil
}
