"""More chat templates in the shapes of real families, in our own words; see make_chats.py."""

SHAPES = {
    "gemma2": """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('A system role is not known here') }}{% endif %}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Turns must go user, assistant, user, assistant') }}{% endif %}{% if m['role'] == 'assistant' %}{% set who = 'model' %}{% else %}{% set who = m['role'] %}{% endif %}{{ '<start_of_turn>' + who + '
' + m['content'] | trim + '<end_of_turn>
' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model
'}}{% endif %}""",

    "gemma3": """\
{{ bos_token }}
{%- if messages[0].role == 'system' -%}
    {%- if messages[0].content is string -%}
        {%- set before = messages[0].content ~ '\\n\\n' -%}
    {%- else -%}
        {%- set before = messages[0].content[0].text ~ '\\n\\n' -%}
    {%- endif -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set before = '' -%}
    {%- set turns = messages -%}
{%- endif -%}
{%- for turn in turns -%}
    {%- if (turn.role == 'user') != (loop.index0 is divisibleby(2)) -%}
        {{ raise_exception('User and model take turns') }}
    {%- endif -%}
    <start_of_turn>{{ 'model' if turn.role == 'assistant' else turn.role }}{{ '\\n' }}
    {{- before if loop.first else '' -}}
    {%- if turn.content is string -%}
        {{ turn.content | trim }}
    {%- elif turn.content is iterable -%}
        {%- for piece in turn.content -%}
            {%- if piece.type == 'image' -%}<start_of_image>
            {%- elif piece.type == 'text' -%}{{ piece.text | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception('No content') }}
    {%- endif -%}
    <end_of_turn>{{ '\\n' }}
{%- endfor -%}
{{ '<start_of_turn>model\\n' if add_generation_prompt }}""",

    "phi4": """\
{% for m in messages %}{% if (m['role'] == 'system') %}{{ '<|im_start|>system<|im_sep|>' + m['content'] + '<|im_end|>' }}{% elif (m['role'] == 'user') %}{{ '<|im_start|>user<|im_sep|>' + m['content'] + '<|im_end|>' }}{% elif (m['role'] == 'assistant') %}{% generation %}{{ '<|im_start|>assistant<|im_sep|>' + (m['content'] or '') + '<|im_end|>' }}{% endgeneration %}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}""",

    "phi4-mini": """\
{% for m in messages %}{% if m['role'] == 'system' and tools is defined and tools is not none %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|tool|>' + tools | tojson(separators=(',', ':')) + '<|/tool|>' + '<|end|>' }}{% elif m.tool_calls is defined %}{{ '<|assistant|><|tool_call|>' ~ (m.tool_calls | map(attribute='function') | list | tojson(sort_keys=true)) ~ '<|/tool_call|><|end|>' }}{% else %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}""",

    "granite-think": """\
{%- set opening -%}
    Knowledge ends in April 2024. Today is {{ strftime_now('%B %-d, %Y') }}.
    {%- if enable_thinking or thinking %} Think inside <think></think>, answer inside <response></response>.{% endif -%}
{%- endset -%}
{%- macro part(role, extra=none) -%}
    <|start_of_role|>{{ role }}{% if extra %} {{ extra | tojson }}{% endif %}<|end_of_role|>{{ caller() }}<|end_of_text|>
{% endmacro -%}
{%- if messages[0].role == 'system' -%}
    {%- set opening = messages[0].content -%}
    {%- set rest = messages[1:] -%}
{%- else -%}
    {%- set rest = messages -%}
{%- endif -%}
{%- call part('system') -%}{{ opening }}{%- endcall -%}
{%- if tools %}{% call part('available_tools') %}{{ tools | tojson(indent=4) }}{% endcall %}{% endif -%}
{%- for d in documents or [] %}
    {%- call part('document', {'document_id': d.doc_id | default(loop.index | string, true)}) %}{{ d.text | default('') }}{% endcall %}
{%- endfor -%}
{%- for m in rest -%}
    {%- if m.role == 'assistant' and m.tool_calls -%}
        {%- call part('assistant') %}<|tool_call|>{% for c in m.tool_calls %}{{ {'name': c.function.name, 'arguments': c.function.arguments} | tojson }}{{ ', ' if not loop.last }}{% endfor %}{% endcall -%}
    {%- elif m.role == 'assistant' and not loop.last and m.content is string and '</think>' in m.content -%}
        {%- call part('assistant') %}{{ m.content.partition('</think>')[2].lstrip() }}{% endcall -%}
    {%- else -%}
        {%- call part('tool_response' if m.role == 'tool' else m.role) %}{{ m.content | default('') }}{% endcall -%}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    <|start_of_role|>assistant<|end_of_role|>
{%- endif -%}""",

    "olmo2": """\
{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ '<|system|>\\n' + m['content'] + '\\n' }}{% elif m['role'] == 'user' %}{{ '<|user|>\\n' + m['content'] + '\\n' }}{% elif m['role'] == 'assistant' %}{% if not loop.last %}{{ '<|assistant|>\\n' + (m['content'] | d('', true)) + eos_token + '\\n' }}{% else %}{{ '<|assistant|>\\n' + (m['content'] | d('', true)) + eos_token }}{% endif %}{% endif %}{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}{% endfor %}""",

    "smollm3": """\
{#- two modes, chosen by a flag or by words in the system message -#}
{%- set ns = namespace(mode=('/think' if enable_thinking is not defined or enable_thinking else '/no_think'), about='') %}
{%- if messages[0].role == "system" %}
  {%- set given = messages[0].content %}
  {%- if "/no_think" in given %}{% set ns.mode = "/no_think" %}{% elif "/think" in given %}{% set ns.mode = "/think" %}{% endif %}
  {%- set ns.about = given.replace("/no_think", "").replace("/think", "").rstrip() %}
{%- endif %}
{{- "<|im_start|>system\\n" -}}
{%- if "/system_override" in ns.about -%}
  {{- ns.about.replace("/system_override", "").strip() -}}
{%- else -%}
  {{- "## Metadata\\n\\nKnowledge Cutoff Date: June 2025\\nToday Date: " ~ strftime_now("%d %B %Y") ~ "\\nReasoning Mode: " ~ ns.mode ~ "\\n\\n" }}
  {{- "## Custom Instructions\\n\\n" }}
  {%- if ns.about -%}
    {{- ns.about ~ "\\n\\n" -}}
  {%- elif ns.mode == "/think" -%}
    {{- "You think before you answer.\\n\\n" -}}
  {%- else -%}
    {{- "You answer.\\n\\n" -}}
  {%- endif -%}
  {%- if xml_tools or python_tools or tools -%}
    {{- "### Tools\\n\\n" -}}
    {%- set ns2 = namespace(text="<tools>\\n") -%}
    {%- for tool in (xml_tools or tools or []) -%}
      {%- set ns2.text = ns2.text ~ (tool | string) ~ "\\n" -%}
    {%- endfor -%}
    {{- ns2.text ~ "</tools>\\n\\n" -}}
  {%- endif -%}
{%- endif -%}
{{- "<|im_end|>\\n" -}}
{%- for message in messages -%}
  {%- set content = message.content if message.content is string else "" -%}
  {%- if message.role == "user" -%}
    {{ "<|im_start|>" + message.role + "\\n" + content + "<|im_end|>\\n" }}
  {%- elif message.role == "assistant" -%}
    {% generation %}
    {%- if ns.mode == "/think" -%}
      {{ "<|im_start|>assistant\\n" + content.lstrip("\\n") + "<|im_end|>\\n" }}
    {%- else -%}
      {{ "<|im_start|>assistant\\n" + "<think>\\n\\n</think>\\n" + content.lstrip("\\n") + "<|im_end|>\\n" }}
    {%- endif -%}
    {% endgeneration %}
  {%- elif message.role == "tool" -%}
    {{ "<|im_start|>user\\n" + content + "<|im_end|>\\n" }}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{ "<|im_start|>assistant\\n" + ("" if ns.mode == "/think" else "<think>\\n\\n</think>\\n") }}
{%- endif -%}""",

    "mistral-tekken": """\
{%- set today = date_string | default(strftime_now("%Y-%m-%d")) %}
{%- set about = "You are helpful. Today is " + today + "." %}
{{- bos_token }}
{%- if messages[0].role == "system" %}
    {%- if messages[0].content is string %}
        {%- set about = messages[0].content %}
    {%- else %}
        {%- set about = messages[0].content | map(attribute='text') | join('\\n') %}
    {%- endif %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set turns = messages %}
{%- endif %}
{{- '[SYSTEM_PROMPT]' + about + '[/SYSTEM_PROMPT]' }}
{%- if tools %}
{{- '[AVAILABLE_TOOLS]' ~ tools | tojson ~ '[/AVAILABLE_TOOLS]' }}
{%- endif %}
{%- for m in turns %}
    {%- if m.role == 'user' %}
        {%- if m.content is string %}
            {{- '[INST]' + m.content + '[/INST]' }}
        {%- else %}
            {{- '[INST]' }}
            {%- for block in m.content | sort(attribute='type') %}
                {%- if block.type == 'text' %}{{- block.text }}
                {%- elif block.type in ['image', 'image_url'] %}{{- '[IMG]' }}
                {%- else %}{{- raise_exception('Only text and image blocks are known') }}{%- endif %}
            {%- endfor %}
            {{- '[/INST]' }}
        {%- endif %}
    {%- elif m.role == 'assistant' %}
        {%- if m.tool_calls %}
            {%- for c in m.tool_calls %}
                {{- '[TOOL_CALLS]' ~ c.function.name ~ '[CALL_ID]' ~ c.id ~ '[ARGS]' ~ (c.function.arguments if c.function.arguments is string else c.function.arguments | tojson) }}
            {%- endfor %}
            {{- eos_token }}
        {%- else %}
            {{- m.content + eos_token }}
        {%- endif %}
    {%- elif m.role == 'tool' %}
        {{- '[TOOL_RESULTS]' ~ m.tool_call_id ~ '[TOOL_CONTENT]' ~ m.content ~ '[/TOOL_RESULTS]' }}
    {%- else %}
        {{- raise_exception('Unknown role: %s' % m.role) }}
    {%- endif %}
{%- endfor %}""",

    "qwen3-xml-tools": """\
{% macro extra(dict, known) %}
    {%- for k, v in dict.items() if k not in known %}
        {{- '\\n<' ~ k ~ '>' }}
        {%- if v is mapping or (v is sequence and v is not string) %}
            {{- v | tojson | safe }}
        {%- else %}
            {{- v | string }}
        {%- endif %}
        {{- '</' ~ k ~ '>' }}
    {%- endfor %}
{% endmacro %}
{%- set head = messages[0].content if messages[0].role == 'system' else '' %}
{%- set loop_messages = messages[1:] if head else messages %}
{{- "<|im_start|>system\\n" + head }}
{%- if tools is iterable and tools | length > 0 %}
    {{- "\\n\\n<tools>" }}
    {%- for tool in tools %}
        {%- set tool = tool.function | default(tool) %}
        {{- "\\n<function>\\n<name>" ~ tool.name ~ "</name>" }}
        {%- if tool.description is defined %}{{- '\\n<description>' ~ (tool.description | trim) ~ '</description>' }}{%- endif %}
        {{- '\\n<parameters>' }}
        {%- for name, fields in (tool.parameters.properties | default({}, true)) | items %}
            {{- '\\n<parameter>\\n<name>' ~ name ~ '</name>' }}
            {%- if fields.type is defined %}{{- '\\n<type>' ~ fields.type | string ~ '</type>' }}{%- endif %}
            {{- extra(fields, ['type', 'name']) }}
            {{- '\\n</parameter>' }}
        {%- endfor %}
        {{- extra(tool.parameters, ['type', 'properties']) }}
        {{- '\\n</parameters>\\n</function>' }}
    {%- endfor %}
    {{- "\\n</tools>" }}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- for message in loop_messages %}
    {%- if message.role == "assistant" and message.tool_calls is defined and message.tool_calls is iterable and message.tool_calls | length > 0 %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content is defined and message.content is string and message.content | trim | length > 0 %}
            {{- '\\n' + message.content | trim + '\\n' }}
        {%- endif %}
        {%- for call in message.tool_calls %}
            {%- set call = call.function if call.function is defined else call %}
            {{- '\\n<tool_call>\\n<function=' + call.name + '>\\n' }}
            {%- if call.arguments is mapping %}
                {%- for k, v in call.arguments | items %}
                    {{- '<parameter=' + k + '>\\n' + (v | tojson if v is mapping or (v is sequence and v is not string) else v | string) + '\\n</parameter>\\n' }}
                {%- endfor %}
            {%- endif %}
            {{- '</function>\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.previtem and loop.previtem.role != "tool" %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' ~ message.content ~ '\\n</tool_response>' }}
        {%- if loop.last or loop.nextitem.role != "tool" %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + (message.content or '') + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{{- '<|im_start|>assistant\\n' if add_generation_prompt }}""",

    "r1": """\
{%- if not add_generation_prompt is defined -%}{%- set add_generation_prompt = false -%}{%- endif -%}
{%- set ns = namespace(outputs=false, about=[]) -%}
{%- for m in messages if m.role == 'system' -%}{%- set ns.about = ns.about + [m.content] -%}{%- endfor -%}
{{ bos_token }}{{ ns.about | join('\\n\\n') }}
{%- for m in messages -%}
    {%- if m['role'] == 'user' -%}<｜User｜>{{ m['content'] }}
    {%- elif m['role'] == 'assistant' and m['tool_calls'] -%}
        <｜Assistant｜>{{ m['content'] if m['content'] is not none and m['content'] is defined }}<｜tool▁calls▁begin｜>
        {%- for c in m['tool_calls'] -%}
            {{ '\\n' if not loop.first }}<｜tool▁call▁begin｜>{{ c['type'] }}<｜tool▁sep｜>{{ c['function']['name'] + '\\n```json\\n' ~ c['function']['arguments'] | tojson ~ '\\n```' }}<｜tool▁call▁end｜>
        {%- endfor -%}
        <｜tool▁calls▁end｜><｜end▁of▁sentence｜>
    {%- elif m['role'] == 'tool' -%}
        {{ '<｜tool▁outputs▁begin｜>' if not ns.outputs }}<｜tool▁output▁begin｜>{{ m['content'] }}<｜tool▁output▁end｜>
        {%- set ns.outputs = true -%}
        {%- if loop.last or loop.nextitem.role != 'tool' -%}<｜tool▁outputs▁end｜>{%- set ns.outputs = false -%}{%- endif -%}
    {%- elif m['role'] == 'assistant' -%}
        {%- set text = m['content'] -%}
        {%- if '</think>' in text -%}{%- set text = text.split('</think>')[-1] -%}{%- endif -%}
        <｜Assistant｜>{{ text }}<｜end▁of▁sentence｜>
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<｜Assistant｜>{{ '<think>\\n' if enable_thinking is not defined or enable_thinking }}{%- endif -%}""",

    "llama3-user-tools": """\
{{- bos_token }}
{%- set names = (tools or []) | map(attribute='function.name') | list %}
{%- macro schema(s, depth=0) -%}
    {%- if s is mapping and s.properties is defined -%}
        {{ '{' }}{% for k, v in s.properties.items() %}{{ k }}{{ '' if k in (s.required or []) else '?' }}: {{ schema(v, depth + 1) }}{{ '; ' if not loop.last }}{% endfor %}{{ '}' }}
    {%- elif s is mapping and s.type == 'array' -%}
        {{ schema(s['items'], depth + 1) }}[]
    {%- elif s is mapping and s.enum -%}
        {{ s.enum | map('tojson') | join(' | ') }}
    {%- else -%}
        {{ (s.type if s.type is string else s.type | join('|')) | default('any', true) }}
    {%- endif -%}
{%- endmacro %}
{%- for group in messages | batch(2) %}
    {%- set outer = loop %}
    {%- for m in group %}
        {{- '<|start_header_id|>%s<|end_header_id|>\\n\\n' | format(m.role if m.role != 'tool' else 'ipython') }}
        {%- if outer.first and loop.first and tools and m.role != 'tool' %}
            {{- 'Functions: %d (%s)\\n' % (names | length, names | sort | join(', ')) }}
            {%- for t in tools %}{{- t.function.name ~ ': ' ~ schema(t.function.parameters) ~ '\\n' }}{%- endfor %}
        {%- endif %}
        {%- if m.tool_calls %}
            {%- for c in m.tool_calls %}{{- '{{"name": {}, "parameters": {}}}'.format(c.function.name | tojson, c.function.arguments | tojson) }}{%- endfor %}
        {%- else %}
            {{- m.content | trim }}
        {%- endif %}
        {{- '<|eot_id|>' }}
    {%- endfor %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}""",

    "census": """\
{%- set roles = messages | groupby('role') | map('first') | join(',') -%}
{%- macro tree(node) %}{% for key, value in node.items() recursive %}{{ '.' * loop.depth0 }}{{ key }}{% if value is mapping %}({{ loop(value.items()) }}){% else %}={{ value | string | truncate(12, true, '~', 0) }}{% endif %}{{ ';' if not loop.last }}{% endfor %}{% endmacro -%}
[{{ roles }}]{{ messages | rejectattr('role', 'in', ['user', 'system']) | list | count }}/{{ messages | selectattr('tool_calls', 'defined') | list | length }}
{% for m in messages %}
  {%- if loop.changed(m.role) %}{{ loop.cycle('*', '-', '+') }}{{ m.role[:4] | upper | center(8) }}{% endif +%}
{{ m.role.title() }}:{{ m.content | default('(none)', true) | string | indent(2, first=loop.first) | replace('\\n', '\\\\n', 2) }}
  {%- if m.tool_calls is defined %}{{ tree(m.tool_calls[0].function) }}{{ m.tool_calls | length ** 2 // 1 }}{% endif %}
  {%- filter trim | upper %}  {{ m.name | default(m.role, true) }} {% endfilter %}
  {%- with a = loop.index, b = loop.length %}{{ '%02d/%-3d|' % (a, b) }}{% endwith %}
{%- endfor %}
{% raw %}{{ raw }}{% endraw %}{{ messages | tojson(indent=1, sort_keys=true) | length }}{{ documents is none }}{{ tools is defined }}
{%- if 1 < messages | length <= 3 %}few{% elif not messages is defined or messages | length is odd %}odd{% else %}even{% endif -%}
{{ messages | map(attribute='content', default='') | map('string') | map('length') | sum }}{{ (messages | last).role in ('user', 'tool') }}""",
}

# Shapes that go over the parts of a content list.
PARTS = {"gemma", "gemma3", "mistral-tekken"}
