/** What the Grafana dashboard shows, row by row: the questions of whoever is on call, in the order in which they ask them. */

export interface Query {
  readonly expr: string;
  /** Grafana's: {{label}}. */
  readonly legend: string;
}

export interface Panel {
  readonly title: string;
  /** The answer's unit as Grafana names it. */
  readonly unit: string;
  readonly description: string;
  readonly queries: readonly Query[];
}

export interface Row {
  readonly title: string;
  readonly panels: readonly Panel[];
}

/** Every series is narrowed to the pickers chosen above the dashboard. */
const of = '{job=~"$job", instance=~"$instance"}';
const rate = (metric: string): string => `rate(${metric}${of}[$__rate_interval])`;
const quantile = (share: number, metric: string, ...by: readonly string[]): string =>
  `histogram_quantile(${share}, sum by (${["le", ...by].join(", ")}) (${rate(`${metric}_bucket`)}))`;
const halves = (metric: string): readonly Query[] => [
  { expr: quantile(0.5, metric), legend: "p50" },
  { expr: quantile(0.95, metric), legend: "p95" },
  { expr: quantile(0.99, metric), legend: "p99" },
];

export const rows: readonly Row[] = [
  {
    title: "Requests",
    panels: [
      {
        title: "Requests",
        unit: "reqps",
        description: "By the model that clients ask for.",
        queries: [{ expr: `sum by (model_name) (${rate("llm_d_epp_request_total")})`, legend: "{{model_name}}" }],
      },
      {
        title: "Failed requests",
        unit: "reqps",
        description: "By the picker's code: refusals of its own and errors of model servers.",
        queries: [{ expr: `sum by (error_code) (${rate("llm_d_epp_request_error_total")})`, legend: "{{error_code}}" }],
      },
      {
        title: "Running requests",
        unit: "short",
        description: "Routed and not ended.",
        queries: [{ expr: `sum by (model_name) (llm_d_epp_request_running${of})`, legend: "{{model_name}}" }],
      },
      {
        title: "Time to first token",
        unit: "s",
        description:
          "From the request's headers to the first byte of its answer. Needs a gateway that shows answers to the picker.",
        queries: halves("llm_d_epp_request_ttft_seconds"),
      },
      {
        title: "Time per answer token",
        unit: "s",
        description: "After the first one, of streaming answers.",
        queries: halves("llm_d_epp_request_streaming_tpot_seconds"),
      },
      {
        title: "Duration",
        unit: "s",
        description: "From the request's headers to the end of its answer.",
        queries: halves("llm_d_epp_request_duration_seconds"),
      },
      {
        title: "Tokens",
        unit: "short",
        description: "A second, as the engines count them.",
        queries: [
          { expr: `sum(${rate("llm_d_epp_request_input_tokens_sum")})`, legend: "prompt" },
          { expr: `sum(${rate("llm_d_epp_request_cached_tokens_sum")})`, legend: "of them cached" },
          { expr: `sum(${rate("llm_d_epp_request_output_tokens_sum")})`, legend: "answer" },
        ],
      },
    ],
  },
  {
    title: "Decisions",
    panels: [
      {
        title: "Time of a decision",
        unit: "s",
        description: "From the end of a request's body to its destination.",
        queries: halves("llm_d_epp_request_processing_duration_seconds"),
      },
      {
        title: "Destinations",
        unit: "reqps",
        description: "Where requests are sent. Uneven is not wrong: a cached prefix draws requests.",
        queries: [
          {
            expr: `sum by (endpoint_name, port) (${rate("llm_d_epp_scheduler_attempts_total")})`,
            legend: "{{endpoint_name}}:{{port}}",
          },
        ],
      },
      {
        title: "Decisions without a destination",
        unit: "reqps",
        description: "No endpoint was left after the filters.",
        queries: [
          {
            expr: `sum(rate(llm_d_epp_scheduler_attempts_total{job=~"$job", instance=~"$instance", status="failure"}[$__rate_interval]))`,
            legend: "failed",
          },
        ],
      },
      {
        title: "Prefix hit ratio",
        unit: "percentunit",
        description: "Mean share of a prompt that the best endpoint is believed to hold.",
        queries: [
          {
            expr: `sum(${rate("llm_d_epp_prefix_indexer_hit_ratio_sum")}) / sum(${rate("llm_d_epp_prefix_indexer_hit_ratio_count")})`,
            legend: "by what was sent where",
          },
          {
            expr: `sum(${rate("llm_d_epp_precise_prefix_indexer_max_hit_ratio_sum")}) / sum(${rate("llm_d_epp_precise_prefix_indexer_max_hit_ratio_count")})`,
            legend: "by the engines' events",
          },
        ],
      },
      {
        title: "Time of plugins, p99",
        unit: "s",
        description: "By extension point.",
        queries: [
          {
            expr: quantile(0.99, "llm_d_epp_plugin_duration_seconds", "plugin_name", "extension_point"),
            legend: "{{plugin_name}} {{extension_point}}",
          },
        ],
      },
    ],
  },
  {
    title: "Model servers",
    panels: [
      {
        title: "Endpoints with fresh metrics",
        unit: "short",
        description: "Fewer than pods: look at scrapes that fail.",
        queries: [{ expr: `llm_d_epp_ready_endpoints${of}`, legend: "{{name}} {{instance}}" }],
      },
      {
        title: "KV cache use",
        unit: "percentunit",
        description: "Mean over the endpoints of a pool, and how much they differ.",
        queries: [
          { expr: `avg by (name) (llm_d_epp_average_kv_cache_utilization${of})`, legend: "{{name}}" },
          { expr: `avg by (name) (llm_d_epp_std_dev_kv_cache_utilization${of})`, legend: "{{name}} deviation" },
        ],
      },
      {
        title: "Waiting requests",
        unit: "short",
        description: "In the queues of the engines.",
        queries: [
          {
            expr: `avg by (model_server_endpoint) (llm_d_epp_per_endpoint_queue_size${of})`,
            legend: "{{model_server_endpoint}}",
          },
        ],
      },
      {
        title: "Requests in flight",
        unit: "short",
        description: "Sent to an endpoint and not ended, as the pickers count them.",
        queries: [{ expr: `sum by (endpoint_name) (llm_d_epp_inflight_requests${of})`, legend: "{{endpoint_name}}" }],
      },
      {
        title: "Failed scrapes",
        unit: "reqps",
        description: "Unanswered, and answered without anything usable.",
        queries: [
          {
            expr: `sum by (source_type) (${rate("llm_d_epp_datalayer_poll_errors_total")})`,
            legend: "{{source_type}}",
          },
          {
            expr: `sum by (extractor_type) (${rate("llm_d_epp_datalayer_extract_errors_total")})`,
            legend: "{{extractor_type}} unusable",
          },
        ],
      },
    ],
  },
  {
    title: "Pickers",
    panels: [
      {
        title: "Processor",
        unit: "percentunit",
        description: "One is a whole core, which is what one picker can use for decisions.",
        queries: [{ expr: rate("process_cpu_seconds_total"), legend: "{{instance}}" }],
      },
      {
        title: "Memory",
        unit: "bytes",
        description: "Resident.",
        queries: [{ expr: `process_resident_memory_bytes${of}`, legend: "{{instance}}" }],
      },
      {
        title: "Event loop delay, p99",
        unit: "s",
        description: "How long everything waits for everything else.",
        queries: [{ expr: `nodejs_eventloop_lag_p99_seconds${of}`, legend: "{{instance}}" }],
      },
      {
        title: "Leader",
        unit: "short",
        description: "1 leads. Exactly one does, with leader election.",
        queries: [{ expr: `leader_election_master_status${of}`, legend: "{{instance}}" }],
      },
      {
        title: "Other replicas",
        unit: "short",
        description: "Heard, and listening, with active-active replicas.",
        queries: [{ expr: `llm_d_epp_peers${of}`, legend: "{{instance}} {{direction}}" }],
      },
      {
        title: "Silence of the Kubernetes API",
        unit: "s",
        description: "What was last known stands meanwhile.",
        queries: [{ expr: `llm_d_epp_discovery_age_seconds${of}`, legend: "{{name}} {{instance}}" }],
      },
      {
        title: "Faults of our own",
        unit: "short",
        description: "Errors that nobody caught, plugins that threw, configurations that were refused.",
        queries: [
          {
            expr: `sum by (kind) (increase(llm_d_epp_unexpected_errors_total${of}[$__rate_interval]))`,
            legend: "{{kind}}",
          },
          {
            expr: `sum by (plugin_name) (increase(llm_d_epp_plugin_errors_total${of}[$__rate_interval]))`,
            legend: "{{plugin_name}}",
          },
          {
            expr: `sum by (outcome) (increase(llm_d_epp_config_reloads_total${of}[$__rate_interval]))`,
            legend: "configuration {{outcome}}",
          },
        ],
      },
    ],
  },
];
