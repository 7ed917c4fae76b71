{{/* Envoy's file: full duplex both ways, destination from the picker's header. Loaded by the real Envoy in a test. */}}

{{- define "signalbox.envoyConfig" -}}
{{- $isService := eq .Values.router.proxy.mode "service" -}}
{{- $isOpen := include "signalbox.failsOpen" . -}}
{{- $isH2 := eq .Values.router.modelServers.protocol "grpc" -}}
admin:
  address:
    socket_address: { address: 127.0.0.1, port_value: 19000 }
# More clients than this are refused, in the place of an end for want of memory.
overload_manager:
  resource_monitors:
    - name: envoy.resource_monitors.global_downstream_max_connections
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig
        max_active_downstream_connections: 50000
static_resources:
  listeners:
    # Only /ready and /stats/prometheus of the admin port can be had from outside.
    - name: ready
      {{- include "signalbox.envoyAddress" (list . 19001) | nindent 6 }}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: ready
                route_config:
                  name: ready
                  virtual_hosts:
                    - name: admin
                      domains: ["*"]
                      routes:
                        - match: { path: /stats/prometheus }
                          route: { cluster: admin }
                http_filters:
                  - name: envoy.filters.http.health_check
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.health_check.v3.HealthCheck
                      pass_through_mode: false
                      headers:
                        - name: ":path"
                          string_match: { exact: /ready }
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
    - name: inference
      {{- include "signalbox.envoyAddress" (list . (include "signalbox.listenerPort" .)) | nindent 6 }}
      per_connection_buffer_limit_bytes: 1048576
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: inference
                generate_request_id: true
                use_remote_address: true
                normalize_path: true
                merge_slashes: true
                server_header_transformation: PASS_THROUGH
                # A client must not name its own destination.
                early_header_mutation_extensions:
                  - name: envoy.http.early_header_mutation.header_mutation
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation
                      mutations:
                        - remove: x-gateway-destination-endpoint
                http_protocol_options: { enable_trailers: true }
                route_config:
                  name: inference
                  virtual_hosts:
                    - name: inference
                      domains: ["*"]
                      routes:
                        {{- if $isOpen }}
                        # The picker's answer makes Envoy choose its route again; without a picker the second one stays.
                        - match:
                            prefix: /
                            headers:
                              - { name: x-gateway-destination-endpoint, present_match: true }
                          route: { cluster: model_servers, timeout: 0s, idle_timeout: 3600s, upgrade_configs: [{ upgrade_type: websocket }] }
                        - match: { prefix: / }
                          route: { cluster: fallback, timeout: 0s, idle_timeout: 3600s }
                        {{- else }}
                        - match: { prefix: / }
                          route: { cluster: model_servers, timeout: 0s, idle_timeout: 3600s, upgrade_configs: [{ upgrade_type: websocket }] }
                        {{- end }}
                http_filters:
                  - name: envoy.filters.http.ext_proc
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor
                      grpc_service:
                        envoy_grpc: { cluster_name: ext_proc, authority: signalbox }
                        {{- if $isService }}
                        # Asking another picker is safe: no answer had begun, and what a dead one had booked died with it. The tries go on for half a second,
                        # longer than a busy proxy takes to see that the only healthy picker is dead.
                        retry_policy:
                          num_retries: 10
                          retry_back_off: { base_interval: 0.005s, max_interval: 0.25s }
                          retry_on: connect-failure,refused-stream,reset
                          host_selection_retry_max_attempts: 64
                          retry_host_predicate:
                            - name: envoy.retry_host_predicates.previous_hosts
                              typed_config:
                                "@type": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate
                        {{- end }}
                      failure_mode_allow: {{ if $isOpen }}true{{ else }}false{{ end }}
                      # Longer than the picker's own --request-timeout, so that the picker's answer comes first.
                      message_timeout: {{ include "signalbox.seconds" (get .Values.router.epp.flags "request-timeout" | default "90s") | int | add 10 }}s
                      processing_mode:
                        request_header_mode: SEND
                        response_header_mode: SEND
                        request_body_mode: FULL_DUPLEX_STREAMED
                        response_body_mode: FULL_DUPLEX_STREAMED
                        request_trailer_mode: SEND
                        response_trailer_mode: SEND
                      metadata_options:
                        forwarding_namespaces:
                          untyped: [envoy.lb.subset_hint, envoy.lb]
                        receiving_namespaces:
                          untyped: [envoy.lb]
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
                      suppress_envoy_headers: true
  clusters:
    - name: admin
      type: STATIC
      connect_timeout: 1s
      load_assignment:
        cluster_name: admin
        endpoints:
          - lb_endpoints:
              - endpoint:
                  address:
                    socket_address: { address: 127.0.0.1, port_value: 19000 }
    # The destination is the address in the header that the picker sets. A pod that is gone is given up soon.
    - name: model_servers
      type: ORIGINAL_DST
      lb_policy: CLUSTER_PROVIDED
      connect_timeout: 5s
      original_dst_lb_config:
        use_http_header: true
        http_header_name: x-gateway-destination-endpoint
      {{- if $isH2 }}
      {{- include "signalbox.envoyHttp2" . | nindent 6 }}
      {{- end }}
      circuit_breakers:
        thresholds:
          - { max_connections: 40000, max_pending_requests: 40000, max_requests: 40000 }
    {{- if $isOpen }}
    - name: fallback
      type: STRICT_DNS
      # Names that cannot be resolved keep nothing from starting: this is the second choice.
      wait_for_warm_on_init: false
      lb_policy: LEAST_REQUEST
      connect_timeout: 5s
      {{- if $isH2 }}
      {{- include "signalbox.envoyHttp2" . | nindent 6 }}
      {{- end }}
      circuit_breakers:
        thresholds:
          - { max_connections: 40000, max_pending_requests: 40000, max_requests: 40000 }
      load_assignment:
        cluster_name: fallback
        endpoints:
          - lb_endpoints:
              {{- range .Values.router.modelServers.targetPorts }}
              - endpoint:
                  address:
                    socket_address: { address: {{ include "signalbox.fallbackHost" $ }}, port_value: {{ int .number }} }
              {{- end }}
    {{- end }}
    - name: ext_proc
      type: {{ $isService | ternary "STRICT_DNS" "STATIC" }}
      connect_timeout: 5s
      lb_policy: LEAST_REQUEST
      {{- if $isService }}
      # Pickers that are ready are asked: with leader election the leader. Where none is, as after its death, any is: followers answer as well.
      health_checks:
        - timeout: 1s
          interval: 2s
          no_traffic_interval: 2s
          unhealthy_threshold: 1
          healthy_threshold: 1
          reuse_connection: true
          grpc_health_check: { service_name: readiness }
      # The first broken stream takes a picker out, before the next check does.
      outlier_detection:
        split_external_local_origin_errors: true
        consecutive_local_origin_failure: 1
        consecutive_gateway_failure: 1
        enforcing_consecutive_gateway_failure: 100
        interval: 1s
        base_ejection_time: 1s
        max_ejection_percent: 100
      {{- end }}
      {{- include "signalbox.envoyHttp2" . | nindent 6 }}
      circuit_breakers:
        thresholds:
          - { max_connections: 40000, max_pending_requests: 40000, max_requests: 40000, max_retries: 40000 }
      {{- if include "signalbox.isSecure" . }}
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
          common_tls_context: { alpn_protocols: [h2] }
      {{- end }}
      load_assignment:
        cluster_name: ext_proc
        endpoints:
          - lb_endpoints:
              - endpoint:
                  address:
                    socket_address: { address: {{ include "signalbox.pickerHost" . }}, port_value: {{ int .Values.router.epp.extProcPort }} }
{{- end -}}

{{/* list CONTEXT PORT. "::" takes both families on one socket. */}}
{{- define "signalbox.envoyAddress" -}}
{{- $address := (index . 0).Values.router.proxy.listenAddress -}}
address:
  socket_address: { address: {{ $address | quote }}, port_value: {{ index . 1 }}{{ if contains ":" $address }}, ipv4_compat: true{{ end }} }
{{- end -}}

{{- define "signalbox.envoyHttp2" -}}
typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config:
      http2_protocol_options:
        max_concurrent_streams: 1000
        initial_stream_window_size: 1048576
        initial_connection_window_size: 16777216
{{- end -}}

{{/* agentgateway's file: a backend by name only, since the picker names each request's address. */}}
{{- define "signalbox.agentgatewayConfig" -}}
{{- $name := get .Values.router.modelServers.matchLabels "app" | default .Release.Name -}}
{{- $preset := include "signalbox.proxyPreset" . | fromYaml -}}
config:
  statsAddr: 0.0.0.0:{{ $preset.metricsPort }}
  readinessAddr: 0.0.0.0:{{ $preset.readyPort }}
  # How long answers under way have at its end; without, they are cut at once. The first is waited for in any case.
  connectionMinTerminationDeadline: 5s
  connectionTerminationDeadline: 10s
binds:
  - port: {{ include "signalbox.listenerPort" . }}
    listeners:
      - name: inference
        protocol: HTTP
        routes:
          - name: inference
            matches:
              - path: { pathPrefix: / }
            backends:
              - service:
                  name: {{ .Release.Namespace }}/{{ $name }}
                  port: {{ int (first .Values.router.modelServers.targetPorts).number }}
                policies:
                  inferenceRouting:
                    endpointPicker:
                      host: {{ include "signalbox.pickerHost" . }}:{{ int .Values.router.epp.extProcPort }}
                    destinationMode: passthrough
services:
  - name: {{ $name }}
    namespace: {{ .Release.Namespace }}
    hostname: {{ $name }}
    vips: []
    ports:
      {{- range .Values.router.modelServers.targetPorts }}
      {{ int .number }}: {{ int .number }}
      {{- end }}
{{- end -}}
