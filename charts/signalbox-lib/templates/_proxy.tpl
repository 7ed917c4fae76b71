{{/* The proxy of the standalone chart: Envoy or agentgateway, beside the picker in its pod or as a Deployment of its own. */}}

{{/* What its kind brings; a value that is given wins. */}}
{{- define "signalbox.proxyPreset" -}}
{{- if eq .Values.router.proxy.proxyType "agentgateway" -}}
name: agentgateway-proxy
image: {{ .Values.router.proxy.agentgatewayImage }}
args: [-f, /etc/proxy/config.yaml]
file: config.yaml
readyPort: 15021
readyPath: /healthz/ready
metricsPort: 15020
{{- else -}}
name: envoy-proxy
image: {{ .Values.router.proxy.envoyImage }}
command: envoy
args: [--service-node, envoy-proxy, --service-cluster, signalbox, --log-level, warn, -c, /etc/proxy/envoy.yaml]
file: envoy.yaml
readyPort: 19001
readyPath: /ready
metricsPort: 19001
{{- end -}}
{{- end -}}

{{- define "signalbox.proxyReadyPort" -}}
{{ (include "signalbox.proxyPreset" . | fromYaml).readyPort }}
{{- end -}}

{{/* Where clients come in: the port named http. */}}
{{- define "signalbox.listenerPort" -}}
{{- $ports := list -}}
{{- range .Values.router.extraServicePorts -}}
{{- if eq .name "http" }}{{ $ports = append $ports (.targetPort | default .port) }}{{ end -}}
{{- end -}}
{{- if ne (len $ports) 1 -}}
{{- fail "router.extraServicePorts must have exactly one port named \"http\": the proxy listens there" -}}
{{- end -}}
{{- $port := first $ports -}}
{{- if not (regexMatch "^[0-9]+$" (include "signalbox.text" $port)) -}}
{{- fail "router.extraServicePorts: targetPort of the port named \"http\" must be a number: the proxy listens there" -}}
{{- end -}}
{{ int $port }}
{{- end -}}

{{/* Where the proxy finds the picker. */}}
{{- define "signalbox.pickerHost" -}}
{{- if eq .Values.router.proxy.mode "service" -}}
{{ include "signalbox.name" . }}-headless.{{ .Release.Namespace }}.svc.{{ .Values.router.clusterDomain }}
{{- else -}}
127.0.0.1
{{- end -}}
{{- end -}}

{{- define "signalbox.fallbackHost" -}}
{{ include "signalbox.name" . }}-fallback.{{ .Release.Namespace }}.svc.{{ .Values.router.clusterDomain }}
{{- end -}}

{{/* "true" where requests go to any model server while no picker answers. */}}
{{- define "signalbox.failsOpen" -}}
{{- if and .Values.router.proxy.failOpen (eq .Values.router.proxy.proxyType "envoy") .Values.router.modelServers.matchLabels -}}true{{- end -}}
{{- end -}}

{{- define "signalbox.proxyConfigText" -}}
{{- $file := (include "signalbox.proxyPreset" . | fromYaml).file -}}
{{- if hasKey .Values.router.proxy.configMap.data $file -}}
{{ get .Values.router.proxy.configMap.data $file }}
{{- else if eq .Values.router.proxy.proxyType "agentgateway" -}}
{{ include "signalbox.agentgatewayConfig" . }}
{{- else -}}
{{ include "signalbox.envoyConfig" . }}
{{- end -}}
{{- end -}}

{{- define "signalbox.proxyConfigMapName" -}}
{{ .Values.router.proxy.configMap.name | default (include "signalbox.proxyName" .) }}
{{- end -}}

{{- define "signalbox.proxyConfigMap" -}}
{{- $file := (include "signalbox.proxyPreset" . | fromYaml).file -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "signalbox.proxyConfigMapName" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "signalbox.labels" . | nindent 4 }}
data:
  {{ $file }}: |
    {{- include "signalbox.proxyConfigText" . | nindent 4 }}
  {{- range $name, $text := omit .Values.router.proxy.configMap.data $file }}
  {{ $name }}: |
    {{- $text | nindent 4 }}
  {{- end }}
{{- end -}}

{{- define "signalbox.proxyVolumes" -}}
- name: proxy-config
  configMap: { name: {{ include "signalbox.proxyConfigMapName" . }} }
{{- with .Values.router.proxy.volumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "signalbox.proxyContainer" -}}
{{- $proxy := .Values.router.proxy -}}
{{- $preset := include "signalbox.proxyPreset" . | fromYaml -}}
- name: {{ $proxy.name | default $preset.name }}
  image: {{ $proxy.image | default $preset.image }}
  imagePullPolicy: {{ $proxy.imagePullPolicy }}
  {{- with $proxy.command | default $preset.command }}
  command: [{{ . | quote }}]
  {{- end }}
  args:
    {{- toYaml ($proxy.args | default $preset.args) | nindent 4 }}
  {{- with $proxy.env }}
  env:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  ports:
    {{- if $proxy.ports }}
    {{- toYaml $proxy.ports | nindent 4 }}
    {{- else }}
    - { name: http, containerPort: {{ include "signalbox.listenerPort" . }} }
    - { name: proxy-ready, containerPort: {{ $preset.readyPort }} }
    {{- if ne $preset.readyPort $preset.metricsPort }}
    - { name: proxy-metrics, containerPort: {{ $preset.metricsPort }} }
    {{- end }}
    {{- end }}
  {{- with $proxy.livenessProbe }}
  livenessProbe:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  readinessProbe:
    {{- if $proxy.readinessProbe }}
    {{- toYaml $proxy.readinessProbe | nindent 4 }}
    {{- else }}
    httpGet: { path: {{ $preset.readyPath }}, port: {{ $preset.readyPort }} }
    periodSeconds: 5
    timeoutSeconds: 1
    failureThreshold: 2
    {{- end }}
  {{- with $proxy.startupProbe }}
  startupProbe:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if eq $proxy.mode "service" }}
  # Endpoints are told first; Envoy ends with its last answer or after this time, agentgateway soon after it.
  lifecycle:
    preStop:
      sleep: { seconds: {{ int $proxy.drainSeconds }} }
  {{- end }}
  resources:
    {{- toYaml $proxy.resources | nindent 4 }}
  securityContext:
    {{- toYaml $proxy.securityContext | nindent 4 }}
  volumeMounts:
    - { name: proxy-config, mountPath: /etc/proxy, readOnly: true }
    {{- with $proxy.volumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{/* Of mode "service": the proxy's own Deployment, its Service, and the names by which it finds pickers. */}}
{{- define "signalbox.proxyWorkload" -}}
{{- $proxy := .Values.router.proxy -}}
{{- if eq $proxy.mode "service" }}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "signalbox.proxyName" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "signalbox.labels" . | nindent 4 }}
    app.kubernetes.io/component: proxy
spec:
  replicas: {{ int $proxy.replicas }}
  strategy:
    type: RollingUpdate
    rollingUpdate: { maxUnavailable: 0, maxSurge: 1 }
  selector:
    matchLabels:
      {{- include "signalbox.proxySelectorLabels" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "signalbox.proxySelectorLabels" . | nindent 8 }}
        app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
      annotations:
        # The proxy reads its file once, at start.
        checksum/proxy: {{ include "signalbox.proxyConfigText" . | sha256sum }}
    spec:
      # It asks the API server for nothing.
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: {{ add (int $proxy.drainSeconds) 10 }}
      securityContext:
        {{- toYaml .Values.router.epp.podSecurityContext | nindent 8 }}
      containers:
        {{- include "signalbox.proxyContainer" . | nindent 8 }}
      volumes:
        {{- include "signalbox.proxyVolumes" . | nindent 8 }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ include "signalbox.proxyName" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "signalbox.labels" . | nindent 4 }}
    app.kubernetes.io/component: proxy
spec:
  selector:
    {{- include "signalbox.proxySelectorLabels" . | nindent 4 }}
  ports:
    {{- toYaml .Values.router.extraServicePorts | nindent 4 }}
---
# Every picker by its own address, ready or not: the proxy's health checks choose, sooner than names can change.
apiVersion: v1
kind: Service
metadata:
  name: {{ include "signalbox.name" . }}-headless
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "signalbox.labels" . | nindent 4 }}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector:
    {{- include "signalbox.selectorLabels" . | nindent 4 }}
  ports:
    - { name: grpc-ext-proc, port: {{ int .Values.router.epp.extProcPort }}, targetPort: grpc-ext-proc }
{{- end }}
{{- if include "signalbox.failsOpen" . }}
---
# Where requests go while no picker answers: any model server that is ready.
apiVersion: v1
kind: Service
metadata:
  name: {{ include "signalbox.name" . }}-fallback
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "signalbox.labels" . | nindent 4 }}
spec:
  clusterIP: None
  selector:
    {{- toYaml .Values.router.modelServers.matchLabels | nindent 4 }}
  ports:
    {{- range $index, $port := .Values.router.modelServers.targetPorts }}
    - { name: server-{{ $index }}, port: {{ int $port.number }} }
    {{- end }}
{{- end }}
{{- end -}}
