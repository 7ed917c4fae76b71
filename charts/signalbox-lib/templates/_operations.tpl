{{/* What surrounds the picker: who scrapes it, how many there are, what may reach it, the dashboard. */}}

{{- define "signalbox.monitoring" -}}
{{- $monitoring := .Values.router.monitoring -}}
{{- if $monitoring.prometheus.enabled }}
{{- if eq ($monitoring.provider.name | default "prometheusoperator") "gmp" }}
{{- include "signalbox.podMonitoring" . }}
{{- else }}
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata:
  name: {{ include "signalbox.name" . }}-monitor
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "signalbox.labels" . | nindent 4 }}
    {{- with $monitoring.prometheus.extraLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  endpoints:
    - port: http-metrics
      path: /metrics
      interval: {{ $monitoring.interval }}
      {{- if $monitoring.prometheus.auth.enabled }}
      authorization:
        credentials: { name: {{ include "signalbox.metricsSecret" . }}, key: token }
      {{- end }}
  namespaceSelector:
    matchNames: [{{ .Release.Namespace }}]
  selector:
    matchLabels:
      {{- include "signalbox.selectorLabels" . | nindent 6 }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "signalbox.alerts" -}}
{{- $alerts := .Values.router.monitoring.prometheus.alerts -}}
{{- if $alerts.enabled }}
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: {{ include "signalbox.name" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "signalbox.labels" . | nindent 4 }}
    {{- with $alerts.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- .Files.Get "dashboards/alerts.yaml" | trim | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Google's collector runs elsewhere and must be let at the token. */}}
{{- define "signalbox.podMonitoring" -}}
{{- $monitoring := .Values.router.monitoring -}}
{{- $collectors := $monitoring.provider.gmp.autopilot | ternary "gke-gmp-system" "gmp-system" -}}
apiVersion: monitoring.googleapis.com/v1
kind: PodMonitoring
metadata:
  name: {{ include "signalbox.name" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "signalbox.labels" . | nindent 4 }}
spec:
  endpoints:
    - port: http-metrics
      scheme: http
      path: /metrics
      interval: {{ $monitoring.interval }}
      {{- if $monitoring.prometheus.auth.enabled }}
      authorization:
        type: Bearer
        credentials:
          secret: { name: {{ include "signalbox.metricsSecret" . }}, key: token }
      {{- end }}
  selector:
    matchLabels:
      {{- include "signalbox.selectorLabels" . | nindent 6 }}
{{- if $monitoring.prometheus.auth.enabled }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ include "signalbox.name" . }}-metrics-secret-reader
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "signalbox.labels" . | nindent 4 }}
rules:
  - apiGroups: [""]
    resources: [secrets]
    resourceNames: [{{ include "signalbox.metricsSecret" . }}]
    verbs: [get, list, watch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ include "signalbox.name" . }}-metrics-secret-reader
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "signalbox.labels" . | nindent 4 }}
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ include "signalbox.name" . }}-metrics-secret-reader }
subjects:
  - { kind: ServiceAccount, name: collector, namespace: {{ $collectors }} }
{{- end }}
{{- end -}}

{{- define "signalbox.dashboard" -}}
{{- $grafana := .Values.router.monitoring.grafana -}}
{{- if $grafana.enabled }}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "signalbox.name" . }}-dashboard
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "signalbox.labels" . | nindent 4 }}
    {{- with $grafana.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $grafana.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
data:
  signalbox.json: |-
    {{- .Files.Get "dashboards/signalbox.json" | trim | nindent 4 }}
{{- end }}
{{- end -}}

{{- define "signalbox.scaling" -}}
{{- $epp := .Values.router.epp -}}
{{- if $epp.podDisruptionBudget.enabled }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "signalbox.name" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "signalbox.labels" . | nindent 4 }}
spec:
  maxUnavailable: {{ include "signalbox.text" $epp.podDisruptionBudget.maxUnavailable }}
  # A pod that is broken anyway does not keep its node from being drained.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "signalbox.selectorLabels" . | nindent 6 }}
{{- end }}
{{- if $epp.autoscaling.enabled }}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ include "signalbox.name" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "signalbox.labels" . | nindent 4 }}
spec:
  scaleTargetRef: { apiVersion: apps/v1, kind: Deployment, name: {{ include "signalbox.name" . }} }
  minReplicas: {{ int $epp.autoscaling.minReplicas }}
  maxReplicas: {{ int $epp.autoscaling.maxReplicas }}
  metrics:
    # The picker decides on one thread: its share of a core is its load.
    - type: ContainerResource
      containerResource:
        name: cpu
        container: epp
        target: { type: AverageValue, averageValue: {{ $epp.autoscaling.cpuPerReplica }} }
  behavior:
    scaleDown:
      stabilizationWindowSeconds: {{ int $epp.autoscaling.scaleDownSeconds }}
{{- end }}
{{- include "signalbox.modelServerScaling" . }}
{{- end -}}

{{/* Model servers by the requests that wait in them, as the picker counts them. Several pickers say the same: the greatest is taken, not the sum. */}}
{{- define "signalbox.modelServerScaling" -}}
{{- $scaling := .Values.router.modelServers.autoscaling -}}
{{- if eq $scaling.type "hpa" }}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ include "signalbox.poolName" . }}-model-servers
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "signalbox.labels" . | nindent 4 }}
spec:
  scaleTargetRef:
    {{- toYaml $scaling.target | nindent 4 }}
  minReplicas: {{ int $scaling.minReplicas }}
  maxReplicas: {{ int $scaling.maxReplicas }}
  metrics:
    # An average over the pool's servers already, and compared as it is.
    - type: External
      external:
        metric:
          name: {{ $scaling.metricName }}
          selector:
            matchLabels: { name: {{ include "signalbox.poolName" . }} }
        target: { type: Value, value: {{ include "signalbox.text" $scaling.queuedRequestsPerReplica | quote }} }
  behavior:
    scaleDown:
      stabilizationWindowSeconds: {{ int $scaling.scaleDownSeconds }}
{{- else if eq $scaling.type "keda" }}
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: {{ include "signalbox.poolName" . }}-model-servers
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "signalbox.labels" . | nindent 4 }}
spec:
  scaleTargetRef:
    {{- toYaml $scaling.target | nindent 4 }}
  minReplicaCount: {{ int $scaling.minReplicas }}
  maxReplicaCount: {{ int $scaling.maxReplicas }}
  cooldownPeriod: {{ int $scaling.scaleDownSeconds }}
  triggers:
    - type: prometheus
      metricType: AverageValue
      metadata:
        serverAddress: {{ $scaling.prometheusAddress | quote }}
        {{- $labels := printf "name=%q,namespace=%q" (include "signalbox.poolName" .) .Release.Namespace }}
        query: max(inference_pool_average_queue_size{ {{- $labels -}} }) * max(inference_pool_ready_pods{ {{- $labels -}} })
        threshold: {{ include "signalbox.text" $scaling.queuedRequestsPerReplica | quote }}
{{- end }}
{{- end -}}

{{/* Nothing but gateways, Prometheus, kubelets and other pickers reaches the picker; it reaches the API server, names, model servers and the collector. */}}
{{- define "signalbox.networkPolicy" -}}
{{- $policy := .Values.router.networkPolicy -}}
{{- $epp := .Values.router.epp -}}
{{- if $policy.enabled }}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "signalbox.name" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "signalbox.labels" . | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- include "signalbox.selectorLabels" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
  ingress:
    - ports: [{ port: {{ int $epp.extProcPort }} }]
      {{- with $policy.gateways }}
      from:
        {{- toYaml . | nindent 8 }}
        {{- if and $.Values.router.proxy.enabled (eq $.Values.router.proxy.mode "service") }}
        - podSelector:
            matchLabels:
              {{- include "signalbox.proxySelectorLabels" $ | nindent 14 }}
        {{- end }}
      {{- end }}
    # Kubelets ask from their node's address, which no selector names.
    - ports: [{ port: {{ int $epp.grpcHealthPort }} }]
    - ports: [{ port: {{ int .Values.router.metricsPort }} }]
      {{- with $policy.prometheus }}
      from:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    {{- if and .Values.router.proxy.enabled (eq .Values.router.proxy.mode "sidecar") }}
    - ports:
        {{- range .Values.router.extraServicePorts }}
        - { port: {{ int .port }} }
        {{- end }}
        - { port: {{ include "signalbox.proxyReadyPort" . }} }
    {{- end }}
    {{- if include "signalbox.hasPeers" . }}
    # Before Dynamo workers replicas speak on ports of their own choice besides.
    - {{ if not .Values.router.dynamo.enabled }}ports: [{ port: {{ int $epp.ha.peerPort }} }]
      {{ end }}from:
        - podSelector:
            matchLabels:
              {{- include "signalbox.selectorLabels" . | nindent 14 }}
    {{- end }}
    {{- with include "signalbox.indexPort" . }}
    # Whoever of the namespace asks for the index.
    - ports: [{ port: {{ . }} }]
      from: [{ podSelector: {} }]
    {{- end }}
    {{- with include "signalbox.enginePeerPorts" . }}
    # What router.epp.env says of pickers of the same engines.
    - ports:
        {{- range fromJsonArray . }}
        - { port: {{ int . }} }
        {{- end }}
      from:
        - podSelector:
            matchLabels:
              {{- include "signalbox.selectorLabels" $ | nindent 14 }}
    {{- end }}
    {{- with $policy.extraIngress }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  egress:
    - ports: [{ port: 53 }, { port: 53, protocol: UDP }]
    # The API server is outside every pod selector.
    - ports:
        {{- range $policy.apiServer.ports }}
        - { port: {{ int . }} }
        {{- end }}
      {{- with $policy.apiServer.cidrs }}
      to:
        {{- range . }}
        - ipBlock: { cidr: {{ . | quote }} }
        {{- end }}
      {{- end }}
    {{- with .Values.router.modelServers.matchLabels }}
    # All ports: engines publish KV events and, behind Dynamo, speak on ports of their own.
    - to:
        - podSelector:
            matchLabels:
              {{- toYaml . | nindent 14 }}
    {{- end }}
    {{- if include "signalbox.hasPeers" . }}
    - {{ if not .Values.router.dynamo.enabled }}ports: [{ port: {{ int $epp.ha.peerPort }} }]
      {{ end }}to:
        - podSelector:
            matchLabels:
              {{- include "signalbox.selectorLabels" . | nindent 14 }}
    {{- end }}
    {{- if include "signalbox.indexPort" . }}
    # An answer goes where who asked wants it.
    - to: [{ podSelector: {} }]
    {{- end }}
    {{- with include "signalbox.enginePeerPorts" . }}
    - ports:
        {{- range fromJsonArray . }}
        - { port: {{ int . }} }
        {{- end }}
      to:
        - podSelector:
            matchLabels:
              {{- include "signalbox.selectorLabels" $ | nindent 14 }}
    {{- end }}
    {{- if .Values.router.tracing.enabled }}
    - ports: [{ port: {{ (regexFind ":[0-9]+$" (.Values.router.tracing.otelExporterEndpoint | trimSuffix "/")) | trimPrefix ":" | default "4317" }} }]
    {{- end }}
    {{- with $policy.extraEgress }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
{{- end -}}
