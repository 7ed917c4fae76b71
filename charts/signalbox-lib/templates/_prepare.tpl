{{/*
Values of the older charts in their new places, then what no schema can say. Every template begins with it; a second time it changes nothing.
Values is written to in place: each template of one rendering sees the same one.
*/}}
{{- define "signalbox.prepare" -}}
{{- if not .Values.signalboxIsPrepared -}}
{{- $_ := set .Values "signalboxIsPrepared" true -}}
{{- include "signalbox.takeOld" . -}}
{{- $pool := .Values.router.inferencePool -}}
{{- if not $pool.failureMode }}{{ $_ := set $pool "failureMode" (.Values.router.dynamo.enabled | ternary "FailClose" "FailOpen") }}{{ end -}}
{{- if eq $pool.failureMode "FailClosed" }}{{ $_ := set $pool "failureMode" "FailClose" }}{{ end -}}
{{- if .Values.router.dynamo.enabled }}{{ include "signalbox.prepareDynamo" . }}{{ end -}}
{{- include "signalbox.check" . -}}
{{- end -}}
{{- end -}}

{{/* The operator's labels, unless others are named: all workers of the deployment, whatever their part. */}}
{{- define "signalbox.prepareDynamo" -}}
{{- $dynamo := .Values.router.dynamo -}}
{{- if and $dynamo.graphDeployment (not .Values.router.modelServers.matchLabels) -}}
{{- $labels := dict "nvidia.com/dynamo-component-class" "worker" "nvidia.com/dynamo-namespace" (printf "%s-%s" .Release.Namespace $dynamo.graphDeployment) -}}
{{- $_ := set .Values.router.modelServers "matchLabels" $labels -}}
{{- end -}}
{{- end -}}

{{- define "signalbox.check" -}}
{{- $router := .Values.router -}}
{{- $epp := $router.epp -}}
{{- $mode := include "signalbox.haMode" . -}}
{{- if and (or $router.inferencePool.create (not $router.inferencePool.name)) (not $router.modelServers.matchLabels) -}}
{{- fail "router.modelServers.matchLabels is required: the labels of the model servers' pods" -}}
{{- end -}}
{{- if and $router.inferenceObjectives (not (include "signalbox.servesPool" .)) -}}
{{- fail "router.inferenceObjectives need a pool: set router.inferencePool.create=true, or router.inferencePool.name to one that exists" -}}
{{- end -}}
{{- if $router.latencyPredictor.enabled -}}
{{- fail "router.latencyPredictor.enabled: the picker has no predicted-latency plugins; leave it off, and take the latency plugins out of router.epp.pluginsCustomConfig" -}}
{{- end -}}
{{- if and $router.tokenizer.enabled (not $router.tokenizer.modelName) (not $router.tokenizer.args) -}}
{{- fail "router.tokenizer.modelName is required where router.tokenizer.enabled" -}}
{{- end -}}
{{- if and $epp.podDisruptionBudget.enabled (ne $mode "active-active") -}}
{{- fail "router.epp.podDisruptionBudget.enabled needs router.epp.ha.mode=active-active and replicas > 1: with one ready replica, a leader or the only one, a budget forbids every drain of its node" -}}
{{- end -}}
{{- if and $epp.autoscaling.enabled (ne $mode "active-active") -}}
{{- fail "router.epp.autoscaling.enabled needs router.epp.ha.mode=active-active: followers of a leader take no load" -}}
{{- end -}}
{{- $grace := include "signalbox.gracePeriod" . | int -}}
{{- $drain := include "signalbox.seconds" (get $epp.flags "drain-timeout" | default "30s") | int -}}
{{- $streams := include "signalbox.seconds" (get $epp.flags "drain-grace" | default "90s") | int -}}
{{- if le $grace (add $drain $streams | int) -}}
{{- fail (printf "router.epp.terminationGracePeriodSeconds is %d, but draining may take %d s (drain-timeout and drain-grace of router.epp.flags): answers would be cut" $grace (add $drain $streams)) -}}
{{- end -}}
{{- if and $router.dynamo.enabled (not (or $router.dynamo.graphDeployment $router.dynamo.namespace $router.dynamo.namespacePrefix)) -}}
{{- fail "router.dynamo.enabled needs router.dynamo.graphDeployment, or namespacePrefix or namespace: whose workers are routed to" -}}
{{- end -}}
{{- end -}}

{{/* An old value goes before a new one, since a default cannot be told from a choice. */}}
{{- define "signalbox.takeOld" -}}
{{- $router := .Values.router -}}
{{- $old := .Values.inferenceExtension | default dict -}}
{{- $epp := $router.epp -}}
{{- range $key := list "replicas" "extProcPort" "env" "pluginsConfigFile" "pluginsCustomConfig" "extraContainerPorts" "affinity" "tolerations" "resources" "metricsDataSource" "volumes" "volumeMounts" "flags" -}}
{{- if hasKey $old $key }}{{ include "signalbox.take" (list $epp $key (get $old $key)) }}{{ end -}}
{{- end -}}
{{- with $old.image -}}
{{- range $key := list "registry" "repository" "tag" "pullPolicy" -}}
{{- if hasKey $old.image $key }}{{ $_ := set $epp.image $key (get $old.image $key) }}{{ end -}}
{{- end -}}
{{- if .hub }}{{ $_ := set $epp.image "registry" .hub }}{{ end -}}
{{- if .name }}{{ $_ := set $epp.image "repository" .name }}{{ end -}}
{{- end -}}
{{- range $key := list "monitoring" "tracing" -}}
{{- if hasKey $old $key }}{{ include "signalbox.take" (list $router $key (get $old $key)) }}{{ end -}}
{{- end -}}
{{- if hasKey $old "extraServicePorts" }}{{ $_ := set $router "extraServicePorts" $old.extraServicePorts }}{{ end -}}
{{- if $old.failureMode }}{{ $_ := set $router.inferencePool "failureMode" $old.failureMode }}{{ end -}}
{{- if dig "latencyPredictor" "enabled" false $old }}{{ $_ := set $router.latencyPredictor "enabled" true }}{{ end -}}
{{- with $old.sidecar -}}
{{- range $key := list "enabled" "image" "args" "resources" -}}
{{- if hasKey $old.sidecar $key }}{{ $_ := set $router.proxy $key (get $old.sidecar $key) }}{{ end -}}
{{- end -}}
{{- with .configMap }}{{ $_ := set $router.proxy.configMap "data" (.data | default dict) }}{{ end -}}
{{- end -}}
{{- with $old.endpointsServer -}}
{{- if hasKey . "createInferencePool" }}{{ $_ := set $router.inferencePool "create" .createInferencePool }}{{ end -}}
{{- if not $router.inferencePool.create -}}
{{- if .endpointSelector -}}
{{- $labels := dict -}}
{{- range splitList "," .endpointSelector -}}
{{- $pair := splitList "=" . -}}
{{- $_ := set $labels (first $pair | trim) (last $pair | trim) -}}
{{- end -}}
{{- $_ := set $router.modelServers "matchLabels" $labels -}}
{{- end -}}
{{- if .targetPorts -}}
{{- $ports := list -}}
{{- range splitList "," (include "signalbox.text" .targetPorts) }}{{ $ports = append $ports (dict "number" (trim . | int)) }}{{ end -}}
{{- $_ := set $router.modelServers "targetPorts" $ports -}}
{{- end -}}
{{- if .modelServerType }}{{ $_ := set $router.modelServers "type" .modelServerType }}{{ end -}}
{{- end -}}
{{- end -}}
{{- with .Values.inferencePool -}}
{{- if .apiVersion }}{{ $_ := set $router.inferencePool "apiVersion" .apiVersion }}{{ end -}}
{{- if .targetPortNumber }}{{ $_ := set $router.modelServers "targetPorts" (list (dict "number" .targetPortNumber)) }}{{ end -}}
{{- if .targetPorts }}{{ $_ := set $router.modelServers "targetPorts" .targetPorts }}{{ end -}}
{{- if .modelServerType }}{{ $_ := set $router.modelServers "type" .modelServerType }}{{ end -}}
{{- if .modelServerProtocol }}{{ $_ := set $router.modelServers "protocol" .modelServerProtocol }}{{ end -}}
{{- if .parser }}{{ $_ := set $router.epp "parsers" (list .parser) }}{{ end -}}
{{- with .modelServers }}{{ if .matchLabels }}{{ $_ := set $router.modelServers "matchLabels" .matchLabels }}{{ end }}{{ end -}}
{{- end -}}
{{- with .Values.inferenceObjectives }}{{ $_ := set $router "inferenceObjectives" . }}{{ end -}}
{{- with .Values.experimentalHttpRoute -}}
{{- if hasKey . "enabled" }}{{ $_ := set $.Values.httpRoute "create" .enabled }}{{ end -}}
{{- range $key := list "inferenceGatewayName" "requestTimeout" "baseModel" -}}
{{- if hasKey $.Values.experimentalHttpRoute $key }}{{ $_ := set $.Values.httpRoute $key (get $.Values.experimentalHttpRoute $key) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- with .Values.istio }}{{ include "signalbox.take" (list $.Values.provider "istio" .) }}{{ end -}}
{{- if dig "gke" "autopilot" false (.Values.provider | default dict) }}{{ $_ := set $router.monitoring.provider.gmp "autopilot" true }}{{ end -}}
{{- end -}}

{{/* list TARGET KEY VALUE: a map goes into the one that is there, key by key, anything else in its place. Also false and 0, which a merge would drop. */}}
{{- define "signalbox.take" -}}
{{- $target := index . 0 -}}
{{- $key := index . 1 -}}
{{- $value := index . 2 -}}
{{- if and (kindIs "map" $value) (kindIs "map" (get $target $key)) -}}
{{- $into := get $target $key -}}
{{- range $inner, $member := $value }}{{ include "signalbox.take" (list $into $inner $member) }}{{ end -}}
{{- else -}}
{{- $_ := set $target $key $value -}}
{{- end -}}
{{- end -}}
