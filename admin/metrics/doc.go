// Package metrics tells Prometheus how a store is.
//
//	collector := metrics.NewCollector(store)
//	prometheus.MustRegister(collector)
//
// A program without a registry of its own serves [Handler], which has /metrics, and the probes
// /healthz and /readyz. A program with several stores tells them apart with
// [prometheus.WrapRegistererWith]. The file dashboard.json is a dashboard for Grafana, and
// [Dashboard] returns it.
//
// Neither the metrics nor the probes name a user or a key, or have a text of an error. But they
// tell how many users and keys there are.
package metrics
