{{- define "vera.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What all objects of a release have. */}}
{{- define "vera.commonLabels" -}}
app.kubernetes.io/name: vera
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* By which pods are found: (list $ part). An empty part finds all of the release. */}}
{{- define "vera.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: vera
app.kubernetes.io/instance: {{ $root.Release.Name }}
{{- with index . 1 }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{- define "vera.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "vera.pullSecrets" -}}
{{- range .Values.image.pullSecrets }}
- name: {{ . }}
{{- end }}
{{- end -}}

{{- define "vera.settingsMap" -}}
{{- default (printf "%s-settings" (include "vera.fullname" .)) .Values.settings.existingConfigMap -}}
{{- end -}}

{{/* Text for a ConfigMap, refused where it holds a password of a URL: (list text value). */}}
{{- define "vera.withoutSecrets" -}}
{{- if regexMatch `://[^/\s:@"']*:[^/\s@"']+@` (index . 0) -}}
{{- fail (printf "%s holds a URL with a password: put it into a secret and name the variable (url_env)" (index . 1)) -}}
{{- end -}}
{{- index . 0 -}}
{{- end -}}

{{- define "vera.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "vera.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* The parts of a pod: (dict "root" $ "dagster" <instance ConfigMap or ""> "archive" bool "celery" bool). */}}
{{- define "vera.env" -}}
{{- $root := .root -}}
{{- range $name, $value := $root.Values.env }}
- {name: {{ $name }}, value: {{ include "vera.withoutSecrets" (list (toString $value) "env") | quote }}}
{{- end }}
{{- if .dagster }}
- name: DAGSTER_POSTGRES_URL
  valueFrom:
    secretKeyRef: {name: {{ $root.Values.dagster.postgres.existingSecret }}, key: {{ $root.Values.dagster.postgres.key }}}
- {name: DAGSTER_LOGS_BUCKET, value: {{ $root.Values.dagster.logs.bucket | quote }}}
- {name: VERA_CODE_SERVER_HOST, value: {{ include "vera.fullname" $root }}-code}
{{- end }}
{{- if .archive }}
- {name: VERA_SETTINGS, value: /etc/vera/vera.toml}
- {name: VERA_SPOOL, value: /tmp/vera-spool}
{{- end }}
{{- if .celery }}
{{- with $root.Values.dagster.launcher.celery }}
- name: CELERY_BROKER_URL
  valueFrom:
    secretKeyRef: {name: {{ .existingSecret }}, key: {{ .brokerKey }}}
- name: CELERY_RESULT_BACKEND
  valueFrom:
    secretKeyRef: {name: {{ .existingSecret }}, key: {{ .backendKey }}}
{{- end }}
{{- end }}
{{- end -}}

{{- define "vera.envFrom" -}}
{{- if .archive }}
{{- with .root.Values.archive.existingSecret }}
- secretRef: {name: {{ . }}}
{{- end }}
{{- else }}
{{- with .root.Values.dagster.logs.existingSecret }}
- secretRef: {name: {{ . }}}
{{- end }}
{{- end }}
{{- end -}}

{{- define "vera.volumeMounts" -}}
- {name: scratch, mountPath: /tmp}
- {name: local, mountPath: /var/lib/vera}
{{- if .dagster }}
- {name: instance, mountPath: /opt/dagster, readOnly: true}
{{- end }}
{{- if .root.Values.certificates.existingConfigMap }}
- {name: certificates, mountPath: /etc/vera-certificates, readOnly: true}
{{- end }}
{{- if .archive }}
- {name: settings, mountPath: /etc/vera, readOnly: true}
{{- if .root.Values.archive.filesSecret }}
- {name: secret-files, mountPath: /run/secrets/vera, readOnly: true}
{{- end }}
{{- with .root.Values.archive.volumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "vera.volumes" -}}
- name: scratch
  emptyDir: {sizeLimit: {{ ternary .root.Values.archive.scratch "1Gi" .archive }}}
- name: local
  emptyDir: {sizeLimit: 1Gi}
{{- with .dagster }}
- name: instance
  configMap: {name: {{ . }}}
{{- end }}
{{- with .root.Values.certificates.existingConfigMap }}
- name: certificates
  configMap: {name: {{ . }}}
{{- end }}
{{- if .archive }}
- name: settings
  configMap: {name: {{ include "vera.settingsMap" .root }}}
{{- with .root.Values.archive.filesSecret }}
- name: secret-files
  secret: {secretName: {{ . }}, defaultMode: 288}
{{- end }}
{{- with .root.Values.archive.volumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end -}}

{{/*
A pod's template. Besides what vera.env takes: "part", "account" (service account), "token" (whether it is mounted),
"args", "resources", "grace" (seconds), "ports" and "probes" (as YAML), "restart" (policy).
*/}}
{{- define "vera.pod" -}}
{{- $root := .root -}}
metadata:
  labels:
    {{- include "vera.commonLabels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .part }}
    {{- with $root.Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    # Pods are made anew when their settings change.
    checksum/config: {{ include (print $root.Template.BasePath "/configmaps.yaml") $root | sha256sum }}
    {{- with $root.Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ .account }}
  automountServiceAccountToken: {{ .token }}
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .grace | int }}
  securityContext:
    {{- include "vera.podSecurity" $root | nindent 4 }}
  {{- with include "vera.pullSecrets" $root }}
  imagePullSecrets:
    {{- . | nindent 4 }}
  {{- end }}
  {{- with .restart }}
  restartPolicy: {{ . }}
  {{- end }}
  {{- with $root.Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $root.Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "vera.selector" (list $root .part) | nindent 10 }}
  containers:
    - name: {{ .part }}
      image: {{ include "vera.image" $root }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args: {{ toJson .args }}
      securityContext:
        {{- include "vera.containerSecurity" $root | nindent 8 }}
      {{- with include "vera.env" . }}
      env:
        {{- . | nindent 8 }}
      {{- end }}
      {{- with include "vera.envFrom" . }}
      envFrom:
        {{- . | nindent 8 }}
      {{- end }}
      {{- with .ports }}
      ports:
        {{- . | nindent 8 }}
      {{- end }}
      {{- with .probes }}
      {{- . | nindent 6 }}
      {{- end }}
      resources:
        {{- toYaml .resources | nindent 8 }}
      volumeMounts:
        {{- include "vera.volumeMounts" . | nindent 8 }}
  volumes:
    {{- include "vera.volumes" . | nindent 4 }}
{{- end -}}

{{/* What dagster.yaml says of the run launcher. */}}
{{- define "vera.launcher" -}}
{{- $full := include "vera.fullname" . -}}
{{- $launcher := .Values.dagster.launcher -}}
{{- $parts := dict "root" . "dagster" (printf "%s-instance" $full) "archive" true "celery" false -}}
{{- if eq $launcher.kind "celery" -}}
# Dagster gives up a run that no worker takes for 5 minutes (run_monitoring): so no more of them than workers.
concurrency:
  runs:
    max_concurrent_runs: {{ ternary $launcher.celery.keda.maxReplicas $launcher.celery.replicas $launcher.celery.keda.enabled | int }}
run_launcher:
  module: dagster_celery.launcher
  class: CeleryRunLauncher
  config:
    broker: {env: CELERY_BROKER_URL}
    backend: {env: CELERY_RESULT_BACKEND}
    default_queue: dagster
{{- else if eq $launcher.kind "k8s" -}}
run_launcher:
  module: dagster_k8s
  class: K8sRunLauncher
  config:
    job_namespace: {{ .Release.Namespace }}
    service_account_name: {{ $full }}-archive
    instance_config_map: {{ $full }}-instance
    dagster_home: /opt/dagster
    job_image: {{ include "vera.image" . }}
    image_pull_policy: {{ .Values.image.pullPolicy }}
    {{- with include "vera.pullSecrets" . }}
    image_pull_secrets:
      {{- . | nindent 6 }}
    {{- end }}
    fail_pod_on_run_failure: true
    # Nobody gets another pod than this by a run's tags.
    only_allow_user_defined_k8s_config_fields: {}
    only_allow_user_defined_env_vars: []
    run_k8s_config:
      pod_template_spec_metadata:
        labels:
          {{- include "vera.selector" (list . "run") | nindent 10 }}
          {{- with .Values.podLabels }}
          {{- toYaml . | nindent 10 }}
          {{- end }}
      job_spec_config:
        ttlSecondsAfterFinished: {{ $launcher.k8s.ttlSecondsAfterFinished | int }}
      pod_spec_config:
        automountServiceAccountToken: false
        enableServiceLinks: false
        terminationGracePeriodSeconds: {{ $launcher.terminationGracePeriodSeconds | int }}
        securityContext:
          {{- include "vera.podSecurity" . | nindent 10 }}
        {{- with .Values.priorityClassName }}
        priorityClassName: {{ . }}
        {{- end }}
        {{- with .Values.nodeSelector }}
        nodeSelector:
          {{- toYaml . | nindent 10 }}
        {{- end }}
        {{- with .Values.tolerations }}
        tolerations:
          {{- toYaml . | nindent 10 }}
        {{- end }}
        {{- with .Values.affinity }}
        affinity:
          {{- toYaml . | nindent 10 }}
        {{- end }}
        volumes:
          {{- include "vera.volumes" $parts | nindent 10 }}
      container_config:
        securityContext:
          {{- include "vera.containerSecurity" . | nindent 10 }}
        env:
          {{- include "vera.env" $parts | nindent 10 }}
        {{- with include "vera.envFrom" $parts }}
        envFrom:
          {{- . | nindent 10 }}
        {{- end }}
        resources:
          {{- toYaml $launcher.resources | nindent 10 }}
        volumeMounts:
          {{- include "vera.volumeMounts" $parts | nindent 10 }}
{{- end -}}
{{- end -}}
