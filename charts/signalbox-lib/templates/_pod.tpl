{{/* The picker's pod, one for the Deployment and for the StatefulSet of GKE's preferred backends. */}}

{{- define "signalbox.podTemplate" -}}
{{- $epp := .Values.router.epp -}}
{{- $sidecar := and .Values.router.proxy.enabled (eq .Values.router.proxy.mode "sidecar") -}}
metadata:
  labels:
    {{- include "signalbox.selectorLabels" . | nindent 4 }}
    app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
    {{- with $epp.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- if or $epp.podAnnotations $sidecar }}
  annotations:
    {{- if $sidecar }}
    # The proxy reads its file once, at start.
    checksum/proxy: {{ include "signalbox.proxyConfigText" . | sha256sum }}
    {{- end }}
    {{- with $epp.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
spec:
  serviceAccountName: {{ include "signalbox.accountName" . }}
  # A Service's variables could be taken for flags.
  enableServiceLinks: false
  # Longer than the whole drain: SIGTERM says not ready, serves on (drain-timeout), lets running answers end (drain-grace).
  terminationGracePeriodSeconds: {{ include "signalbox.gracePeriod" . }}
  {{- with $epp.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $epp.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  securityContext:
    {{- toYaml $epp.podSecurityContext | nindent 4 }}
  {{- if or $sidecar (and .Values.router.tokenizer.enabled .Values.router.tokenizer.initContainers) }}
  initContainers:
    {{- if and .Values.router.tokenizer.enabled .Values.router.tokenizer.initContainers }}
    {{- toYaml .Values.router.tokenizer.initContainers | nindent 4 }}
    {{- end }}
    {{- if $sidecar }}
    {{- include "signalbox.proxyContainer" . | nindent 4 }}
      # A sidecar is ended after the picker, which ends when its last answer has: no answer is cut by the proxy.
      restartPolicy: Always
    {{- end }}
  {{- end }}
  containers:
    - name: epp
      image: {{ include "signalbox.image" . }}
      imagePullPolicy: {{ $epp.image.pullPolicy }}
      args:
        {{- include "signalbox.args" . | trim | nindent 8 }}
      env:
        {{- include "signalbox.env" . | trim | nindent 8 }}
      ports:
        - { name: grpc-ext-proc, containerPort: {{ int $epp.extProcPort }} }
        - { name: grpc-health, containerPort: {{ int $epp.grpcHealthPort }} }
        - { name: http-metrics, containerPort: {{ int .Values.router.metricsPort }} }
        {{- if include "signalbox.hasPeers" . }}
        - { name: peers, containerPort: {{ int $epp.ha.peerPort }} }
        {{- end }}
        {{- with include "signalbox.indexPort" . }}
        - { name: index, containerPort: {{ . }} }
        {{- end }}
        {{- range include "signalbox.enginePeerPorts" . | default "[]" | fromJsonArray }}
        - { containerPort: {{ int . }} }
        {{- end }}
        {{- with $epp.extraContainerPorts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      # Alive says only that the process answers: a pool or an API server that is away restarts nothing.
      livenessProbe:
        grpc: { port: {{ int $epp.grpcHealthPort }}, service: liveness }
        initialDelaySeconds: 5
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        grpc: { port: {{ int $epp.grpcHealthPort }}, service: readiness }
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: 2
      resources:
        {{- toYaml $epp.resources | nindent 8 }}
      securityContext:
        {{- toYaml $epp.securityContext | nindent 8 }}
      volumeMounts:
        {{- if include "signalbox.configFile" . }}
        # A folder, not a subPath: a file mounted alone never changes.
        - { name: plugins-config-volume, mountPath: /config, readOnly: true }
        {{- end }}
        - { name: tmp, mountPath: /tmp }
        {{- if $epp.tls.secretName }}
        - { name: certs, mountPath: /certs, readOnly: true }
        {{- end }}
        {{- if and $epp.ha.peerSecretName (include "signalbox.hasPeers" .) }}
        - { name: peer-secret, mountPath: /peer-secret, readOnly: true }
        {{- end }}
        {{- with $epp.volumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    {{- if .Values.router.tokenizer.enabled }}
    {{- include "signalbox.tokenizer" . | nindent 4 }}
    {{- end }}
  volumes:
    {{- if include "signalbox.configFile" . }}
    - name: plugins-config-volume
      configMap: { name: {{ include "signalbox.name" . }} }
    {{- end }}
    - name: tmp
      emptyDir: { sizeLimit: {{ $epp.tmpSizeLimit | default (.Values.router.dynamo.enabled | ternary "10Gi" "1Gi") }} }
    {{- if $epp.tls.secretName }}
    - name: certs
      secret: { secretName: {{ $epp.tls.secretName }} }
    {{- end }}
    {{- if and $epp.ha.peerSecretName (include "signalbox.hasPeers" .) }}
    - name: peer-secret
      secret: { secretName: {{ $epp.ha.peerSecretName }} }
    {{- end }}
    {{- if .Values.router.tokenizer.enabled }}
    - name: model-cache
      emptyDir: {}
    {{- with .Values.router.tokenizer.volumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- end }}
    {{- if $sidecar }}
    {{- include "signalbox.proxyVolumes" . | trim | nindent 4 }}
    {{- end }}
    {{- with $epp.volumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $epp.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $epp.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $epp.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with include "signalbox.spread" . }}
  topologySpreadConstraints:
    {{- . | trim | nindent 4 }}
  {{- end }}
{{- end -}}

{{/* Several replicas on one node are one when it fails; where no other node has room they still start. */}}
{{- define "signalbox.spread" -}}
{{- $epp := .Values.router.epp -}}
{{- if $epp.topologySpreadConstraints -}}
{{- toYaml $epp.topologySpreadConstraints -}}
{{- else if or (include "signalbox.haMode" .) (include "signalbox.isPreferred" .) -}}
- topologyKey: kubernetes.io/hostname
  maxSkew: 1
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "signalbox.selectorLabels" . | nindent 6 }}
{{- end -}}
{{- end -}}

{{- define "signalbox.env" -}}
- name: NAMESPACE
  valueFrom: { fieldRef: { fieldPath: metadata.namespace } }
- name: POD_NAME
  valueFrom: { fieldRef: { fieldPath: metadata.name } }
- name: POD_IP
  valueFrom: { fieldRef: { fieldPath: status.podIP } }
{{- if .Values.router.dynamo.enabled }}
{{ include "signalbox.dynamoEnv" . }}
{{- end }}
{{- if .Values.router.tracing.enabled }}
{{ include "signalbox.tracingEnv" . }}
{{- end }}
{{- with .Values.router.epp.env }}
{{- if kindIs "map" . }}
{{- range $name, $value := . }}
- { name: {{ $name }}, value: {{ include "signalbox.text" $value | quote }} }
{{- end }}
{{- else }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "signalbox.tracingEnv" -}}
{{- $tracing := .Values.router.tracing -}}
- name: NODE_NAME
  valueFrom: { fieldRef: { fieldPath: spec.nodeName } }
- { name: OTEL_SERVICE_NAME, value: signalbox/epp }
- { name: OTEL_TRACES_EXPORTER, value: otlp }
- { name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ $tracing.otelExporterEndpoint | quote }} }
- { name: OTEL_TRACES_SAMPLER, value: {{ $tracing.sampling.sampler | quote }} }
- { name: OTEL_TRACES_SAMPLER_ARG, value: {{ include "signalbox.text" $tracing.sampling.samplerArg | quote }} }
- name: OTEL_RESOURCE_ATTRIBUTES
  value: k8s.namespace.name=$(NAMESPACE),k8s.node.name=$(NODE_NAME),k8s.pod.name=$(POD_NAME)
{{- end -}}

{{/* What Dynamo's operator gives its own picker. A variable of router.dynamo.env wins over the chart's of that name. */}}
{{- define "signalbox.dynamoEnv" -}}
{{- $dynamo := .Values.router.dynamo -}}
{{- $variables := dict "DYN_DISCOVERY_BACKEND" $dynamo.discoveryBackend -}}
{{- if $dynamo.namespacePrefix }}{{ $_ := set $variables "DYN_NAMESPACE_PREFIX" $dynamo.namespacePrefix -}}
{{- else if $dynamo.namespace }}{{ $_ := set $variables "DYN_NAMESPACE" $dynamo.namespace -}}
{{- else -}}
{{- $_ := set $variables "DYN_NAMESPACE_PREFIX" (printf "%s-%s" .Release.Namespace $dynamo.graphDeployment) -}}
{{- $_ := set $variables "DYN_NAMESPACE_PREFIX_STRICT" "true" -}}
{{- end -}}
{{- if $dynamo.componentName }}{{ $_ := set $variables "DYN_COMPONENT_NAME" $dynamo.componentName }}{{ end -}}
{{- if $dynamo.eventPlane }}{{ $_ := set $variables "DYN_EVENT_PLANE" $dynamo.eventPlane }}{{ end -}}
{{- if eq $dynamo.discoveryBackend "kubernetes" }}{{ $_ := set $variables "DYN_KUBE_DISCOVERY_MODE" $dynamo.kubeDiscoveryMode }}{{ end -}}
{{- if $dynamo.enforceDisagg }}{{ $_ := set $variables "DYN_ENFORCE_DISAGG" "true" }}{{ end -}}
{{- if include "signalbox.hasPeers" . }}{{ $_ := set $variables "DYN_ROUTER_REPLICA_SYNC" "true" }}{{ end -}}
{{- with include "signalbox.indexPort" . }}
{{- if not (include "signalbox.envValue" (dict "env" $.Values.router.epp.env "name" "DYN_TCP_RPC_PORT")) }}{{ $_ := set $variables "DYN_TCP_RPC_PORT" . }}{{ end -}}
{{- end -}}
{{- range $name, $value := $dynamo.env }}{{ $_ := set $variables $name $value }}{{ end -}}
- name: POD_NAMESPACE
  valueFrom: { fieldRef: { fieldPath: metadata.namespace } }
- name: POD_UID
  valueFrom: { fieldRef: { fieldPath: metadata.uid } }
{{- range $name, $value := $variables }}
- { name: {{ $name }}, value: {{ include "signalbox.text" $value | quote }} }
{{- end }}
{{- end -}}

{{/* vLLM's renderer beside the picker, which a token-producer of the configuration asks over loopback. */}}
{{- define "signalbox.tokenizer" -}}
{{- $tokenizer := .Values.router.tokenizer -}}
- name: vllm-render
  image: {{ if $tokenizer.image.registry }}{{ $tokenizer.image.registry }}/{{ end }}{{ $tokenizer.image.repository }}:{{ $tokenizer.image.tag }}
  imagePullPolicy: {{ $tokenizer.image.pullPolicy }}
  command:
    {{- toYaml ($tokenizer.command | default (list "vllm" "launch" "render")) | nindent 4 }}
  args:
    {{- toYaml (concat ($tokenizer.args | default (list $tokenizer.modelName (printf "--port=%d" (int $tokenizer.port)))) $tokenizer.extraArgs) | nindent 4 }}
  env:
    # The pod is nobody's home.
    - { name: HOME, value: /model-cache }
    - { name: HF_HOME, value: /model-cache }
    {{- with $tokenizer.env }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  ports:
    - { name: render-http, containerPort: {{ int $tokenizer.port }} }
  {{- with $tokenizer.readinessProbe }}
  readinessProbe:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  resources:
    {{- toYaml $tokenizer.resources | nindent 4 }}
  volumeMounts:
    - { name: model-cache, mountPath: /model-cache }
    {{- with $tokenizer.volumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
