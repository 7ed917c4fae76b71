/** The service's own metrics; Dynamo's select service has none. */
import { Counter, Gauge, Histogram, Registry } from "prom-client";
import type { ReplicaMesh } from "../../prefill-router/service/replica-mesh.ts";
import type { SelectionService } from "../../prefill-router/service/selection-service.ts";

export interface ServiceMetrics {
  answered(route: string, status: number, seconds: number): void;
  render(): Promise<string>;
}

const prefix = "signalbox_prefill_router_";
const partitionLabels = ["model", "routing_group"] as const;

export function createServiceMetrics(service: SelectionService, mesh: () => ReplicaMesh | undefined): ServiceMetrics {
  const registry = new Registry();
  const registers = [registry];
  const requests = new Counter({
    name: `${prefix}requests_total`,
    help: "Answers by route and status; status -1: the client did not wait.",
    labelNames: ["route", "status"],
    registers,
  });
  const seconds = new Histogram({
    name: `${prefix}request_duration_seconds`,
    help: "From a request's first byte to its answer, waiting in a queue included.",
    labelNames: ["route"],
    buckets: [0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30],
    registers,
  });
  const gauge = (name: string, help: string): Gauge<(typeof partitionLabels)[number]> =>
    new Gauge({ name: `${prefix}${name}`, help, labelNames: partitionLabels, registers });
  const workers = gauge("workers", "Workers that can be chosen.");
  const bookings = gauge("active_requests", "Requests booked here and not ended.");
  const waiting = gauge("queued_requests", "Requests that wait because every worker is busy.");
  const blocks = gauge("indexed_blocks", "KV blocks in the index, summed over ranks and tiers.");
  const bytes = gauge("index_bytes", "Memory of the index and of running blocks.");
  const events = new Gauge({
    name: `${prefix}kv_events`,
    help: "What became of engine events: blocks stored and removed, events left out, batches missed.",
    labelNames: [...partitionLabels, "what"],
    registers,
  });
  const pending = new Gauge({ name: `${prefix}pending_selections`, help: "Selections that may be booked.", registers });
  const replica = new Gauge({
    name: `${prefix}replica_events`,
    help: "Changes of bookings told to peers, heard from them, and lost.",
    labelNames: ["what"],
    registers,
  });
  const collect = (): void => {
    for (const partition of service.catalogue.partitions()) {
      const labels = { model: partition.modelName, routing_group: partition.routingGroup };
      const { queue, bookings: open } = partition.router.snapshot();
      workers.set(labels, partition.decode.workers.size + partition.prefill.workers.size);
      bookings.set(labels, open);
      waiting.set(
        labels,
        queue.reduce((sum, entry) => sum + entry.requests, 0),
      );
      blocks.set(labels, partition.indexedBlocks);
      bytes.set(labels, partition.sizeBytes);
      for (const [what, count] of Object.entries(partition.counters)) events.set({ ...labels, what }, count);
    }
    pending.set(service.pending.size);
    const { sent = 0, heard = 0, dropped = 0, malformed = 0 } = mesh() ?? {};
    for (const [what, count] of Object.entries({ sent, heard, dropped, malformed })) replica.set({ what }, count);
  };
  return {
    answered(route, status, duration) {
      requests.inc({ route, status: String(status) });
      seconds.observe({ route }, duration);
    },
    render() {
      collect();
      return registry.metrics();
    },
  };
}
