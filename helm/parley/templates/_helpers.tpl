{{/* The parts, in the order of parley.handlers.routes.Part. */}}
{{- define "parley.parts" -}}
intake dispatch aggregate query
{{- end }}

{{- define "parley.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{/* 50 characters: the longest suffix must still fit into 63. */}}
{{- define "parley.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains (include "parley.name" .) .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "parley.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "parley.selector" -}}
app.kubernetes.io/name: {{ include "parley.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "parley.labels" -}}
{{ include "parley.selector" . }}
app.kubernetes.io/part-of: parley
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "parley.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{- define "parley.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "parley.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* Numbers of values.yaml reach a template as floats: 1048576 would be written 1.048576e+06. */}}
{{- define "parley.scalar" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{/* The settings of every part: the ConfigMap's data, and a checksum that rolls the pods when they change. */}}
{{- define "parley.settings" -}}
VLLM_URL: {{ join "," .Values.vllm.urls | quote }}
{{- if not .Values.nats.existingSecret.name }}
NATS_URL: {{ .Values.nats.url | quote }}
{{- end }}
{{- with .Values.vllm.model }}
VLLM_MODEL: {{ . | quote }}
{{- end }}
# Probes and Prometheus come from outside the pod; the default is loopback.
PARLEY_HTTP_HOST: "0.0.0.0"
PARLEY_HTTP_PORT: {{ include "parley.scalar" .Values.metrics.port | quote }}
PARLEY_REPLICAS: {{ include "parley.scalar" .Values.nats.streamReplicas | quote }}
PARLEY_DRAIN_SECONDS: {{ include "parley.scalar" .Values.drainSeconds | quote }}
PARLEY_POOL_ACTORS: {{ include "parley.scalar" .Values.ray.actors | quote }}
PARLEY_RAY_ACTOR_CPUS: {{ include "parley.scalar" .Values.ray.actorCpus | quote }}
{{- range $name, $value := .Values.settings }}
{{ $name }}: {{ include "parley.scalar" $value | quote }}
{{- end }}
{{- end }}

{{/*
For every pod, Ray's included. No service links: with them Kubernetes sets variables for each Service of the namespace, and a
Service named `parley-http` would set PARLEY_HTTP_PORT to a URL.
*/}}
{{- define "parley.podCommon" -}}
serviceAccountName: {{ include "parley.serviceAccountName" . }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "parley.containerCommon" -}}
image: {{ include "parley.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  capabilities:
    drop: [ALL]
{{- end }}

{{/* Where the files of `nats.filesSecret` are, for settings. Those of workers: for dispatch, which hands them on. */}}
{{- define "parley.natsFiles" -}}
{{- $files := .root.Values.nats.filesSecret }}
{{- range $key, $name := dict "creds" "PARLEY_NATS_CREDS_FILE" "nkey" "PARLEY_NATS_NKEY_FILE" "ca" "PARLEY_NATS_CA_FILE" "cert" "PARLEY_NATS_CERT_FILE" "key" "PARLEY_NATS_KEY_FILE" "workerCreds" "PARLEY_WORKER_NATS_CREDS_FILE" "workerNkey" "PARLEY_WORKER_NATS_NKEY_FILE" "workerCert" "PARLEY_WORKER_NATS_CERT_FILE" "workerKey" "PARLEY_WORKER_NATS_KEY_FILE" }}
{{- if and $files.name (index $files $key) (or $.isDispatch (not (hasPrefix "worker" $key))) }}
- name: {{ $name }}
  value: /etc/parley/nats/{{ index $files $key }}
{{- end }}
{{- end }}
{{- end }}

{{/* ── Ray ── */}}

{{/* True if the chart creates the Ray cluster. */}}
{{- define "parley.ownRay" -}}
{{- if not .Values.ray.address }}true{{ end }}
{{- end }}

{{/*
KubeRay does not replace running pods when a RayCluster changes. So the name has a checksum of all that must be equal on all
nodes. At most 41 characters: KubeRay cuts `<name>-head-svc` to 50, from the front, and dispatch must know the result.
*/}}
{{- define "parley.rayName" -}}
{{- $nodes := list .Values.ray.version (include "parley.rayHead" .) (include "parley.rayWorker" .) | join "\n" }}
{{- printf "%s-ray-%s" (include "parley.fullname" . | trunc 28 | trimSuffix "-") (sha256sum $nodes | trunc 8) }}
{{- end }}

{{- define "parley.rayHeadAddress" -}}
{{- default (printf "%s-head-svc:6379" (include "parley.rayName" .)) .Values.ray.address }}
{{- end }}

{{/*
For every Ray node, dispatch included. HOME: user 10001 has no other writable folder. Log rotation: by default Ray keeps five
files of 512 MiB of each log, more than a pod's /tmp can hold.
*/}}
{{- define "parley.rayEnv" -}}
- name: HOME
  value: /tmp
- name: RAY_USAGE_STATS_ENABLED
  value: "0"
- name: RAY_ROTATION_MAX_BYTES
  value: "16777216"
- name: RAY_ROTATION_BACKUP_COUNT
  value: "1"
{{- with .Values.ray.authSecret }}
{{- if .name }}
- name: RAY_AUTH_MODE
  value: token
- name: RAY_AUTH_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ .name }}
      key: {{ .key }}
{{- end }}
{{- end }}
{{- end }}

{{- define "parley.rayMounts" -}}
- name: tmp
  mountPath: /tmp
- name: shm
  mountPath: /dev/shm
{{- end }}

{{/* The object store lives in /dev/shm, where a container has 64 MiB; Ray wants 75 MiB and otherwise takes 30 % of the memory. */}}
{{- define "parley.rayVolumes" -}}
- name: tmp
  emptyDir:
    sizeLimit: {{ .Values.ray.tmpSize }}
- name: shm
  emptyDir:
    medium: Memory
    sizeLimit: 128Mi
{{- end }}

{{/* In bytes. Jobs are small and answers never pass through Ray: near its minimum of 75 MiB, as in workers/pool/ray_cluster.py. */}}
{{- define "parley.rayObjectStore" -}}
83886080
{{- end }}

{{/* The raylet's port on every node but the head. By default Ray takes any free port, but the probes must know it. */}}
{{- define "parley.rayletPort" -}}
6380
{{- end }}

{{/*
Probes of a Ray node. KubeRay's own probes call the dashboard agent over HTTP. It exists only with `ray[default]`: with plain `ray`
every node would be killed. GCS and raylet answer gRPC health checks themselves, without a token.
*/}}
{{- define "parley.rayProbes" -}}
startupProbe:
  grpc: {port: {{ . }}}
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: 60
livenessProbe:
  grpc: {port: {{ . }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  grpc: {port: {{ . }}}
  periodSeconds: 5
  timeoutSeconds: 5
{{- end }}

{{/* `app.kubernetes.io/name` is missing: KubeRay sets it and selects the head by it. */}}
{{- define "parley.rayPodMetadata" -}}
labels:
  app.kubernetes.io/instance: {{ .root.Release.Name }}
  app.kubernetes.io/component: {{ .component }}
  app.kubernetes.io/part-of: parley
{{- with .root.Values.podAnnotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Refuses values that are valid alone but cannot work together. */}}
{{- define "parley.check" -}}
{{- if include "parley.ownRay" . }}
{{- $needed := mul (add1 .Values.parts.dispatch.replicas) .Values.ray.actors }}
{{- $each := divf .Values.ray.workers.cpus .Values.ray.actorCpus | addf 0.000001 | floor | int }}
{{- $room := mul .Values.ray.workers.replicas $each }}
{{- if gt $needed $room }}
{{- fail (printf "ray.workers: there is room for %d actors, and dispatch may need %d: ray.actors × (parts.dispatch.replicas + 1, while it is rolled out). Raise ray.workers.replicas or ray.workers.cpus, or lower ray.actors." $room $needed) }}
{{- end }}
{{- end }}
{{- end }}
