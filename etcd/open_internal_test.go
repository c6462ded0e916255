package etcd

import (
	"testing"
	"time"
)

func TestTheParametersOfAURLAreOptions(t *testing.T) {
	given := Options{WatchAge: time.Second, Unreachable: time.Minute, Mirror: "given"}
	for _, tt := range []struct {
		url  string
		want Options
	}{
		{"etcd://127.0.0.1:1/p", given},
		{"etcd://127.0.0.1:1/p?watch-age=500ms&unreachable=1m30s&mirror=a/b", Options{WatchAge: 500 * time.Millisecond, Unreachable: 90 * time.Second, Mirror: "a/b"}},
		{"etcds://127.0.0.1:1/p?unreachable=1h", Options{WatchAge: time.Second, Unreachable: time.Hour, Mirror: "given"}},
	} {
		e, err := Open(tt.url, given)
		if err != nil {
			t.Fatal(err)
		}
		if got := e.(*owner).opts; got != tt.want {
			t.Errorf("%s: got %+v, want %+v", tt.url, got, tt.want)
		}
		e.Close()
	}
}
