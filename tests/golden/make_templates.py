"""Golden data for the chat-template interpreter: small templates rendered by Jinja2 in the environment of
transformers. Needs both. Usage: make_templates.py > tests/data/template/golden.json"""
import json

from transformers.utils import chat_template_utils

from template_snippets import ALL

SNIPPETS = [
    "{{ 1 + 2 * 3 }}", "{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }}", "{{ 7 / 2 }}", "{{ 2 ** 5 }}",
    "{{ 1.0 }} {{ 0.1 + 0.2 }} {{ 1e20 }} {{ 1.5e-7 }} {{ 100000.0 }}", "{{ 'a' + 'b' ~ 1 }}",
    "{{ 'a' ~ 1 + 2 }}", "{{ [1, 'a', none, true] }}", "{{ {'a': 1, 'b': [1.5]} }}", "{{ (1, 2) }} {{ (1,) }}",
    "{{ \"it's\" }} {{ [\"it's\", 'a\"b'] }}", "{{ 'a\\nb' }}", "{{ ['a\\nb'] }}", "{{ none }} {{ true }} {{ x }}",
    "{{ x is defined }} {{ a is defined }} {{ none is none }}", "{{ a | upper }} {{ a | length }} {{ [] | length }}",
    "{{ 'abcdef'[1:3] }} {{ 'abc'[-1] }} {{ 'abc'[::-1] }} {{ [1,2,3,4][::2] }} {{ [1,2,3][-2:] }} {{ 'abc'[5:] }}",
    "{{ 'héllo'[1] }} {{ 'héllo' | length }} {{ '日本'[::-1] }}", "{% for i in range(3) %}{{ i }}{% endfor %}",
    "{% for i in [] %}x{% else %}none{% endfor %}", "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for i in [1,2,3] if i != 2 %}{{ loop.index }}:{{ i }}{{ ',' if not loop.last }}{% endfor %}",
    "{% for i in [1,2,3] %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}",
    "{% for i in [1,2,3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{% endfor %}{{ x }}",
    "{% set ns = namespace(x=1) %}{% for i in [1,2] %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}",
    "{% if a %}{% set y = 5 %}{% endif %}{{ y }}", "{% macro m(p, q='z') %}<{{ p }}{{ q }}>{% endmacro %}{{ m('a') }}{{ m('b', q=1) }}",
    "{% set b %}hello {{ a }}{% endset %}[{{ b }}]", "{% filter upper %}abc{% endfilter %}",
    "{{ messages | map(attribute='role') | join(', ') }}", "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
    "{{ messages[0].role }} {{ messages[0]['role'] }} {{ messages[0].nope is defined }}", "{{ messages | tojson }}",
    "{{ {'a': [1, {'b': none}], 'c': 'é\"<'} | tojson }}", "{{ {'a': [1, 2], 'b': {}} | tojson(indent=2) }}",
    "{{ '  a b '.strip() }}|{{ 'xxaxx'.strip('x') }}|{{ ' a'.lstrip() }}|{{ 'a '.rstrip() }}", "{{ 'a,b,c'.split(',') }} {{ 'a  b c'.split() }} {{ 'a,b,c'.split(',', 1) }}",
    "{{ 'a-b-c'.rsplit('-', 1) }}", "{{ 'abc'.startswith('ab') }} {{ 'abc'.endswith(('x', 'c')) }}", "{{ 'abc'.replace('b', 'XX') }} {{ 'a.b' | replace('.', '') }}",
    "{{ 'hello world'.title() }} {{ 'hELLO'.capitalize() }} {{ 'abc' | capitalize }}", "{{ 'b' in 'abc' }} {{ 1 not in [1, 2] }} {{ 'a' in {'a': 1} }}",
    "{{ not true and false or true }}", "{{ 1 < 2 < 3 }} {{ 1 < 3 > 2 }} {{ 1 == 1.0 }}", "{{ 'x' if false }}|{{ 'x' if false else 'y' }}",
    "{{ [3,1,2] | sort }} {{ ['b','A'] | sort }} {{ {'b': 1, 'a': 2} | dictsort }}", "{{ [1,1,2] | unique | list }} {{ [1,2] | first }} {{ [1,2] | last }}",
    "{{ 'x' | default('d') }} {{ z | default('d') }} {{ '' | default('d', true) }}", "{{ '3' | int + 1 }} {{ 'x' | int }} {{ 3.7 | int }} {{ '2.5' | float }}",
    "{{ 'a\\nb' | indent(2) }}", "{{ [1, [2]] | string }}", "{{ -1 | abs }} {{ 2.5 | round }} {{ [1,2] | sum }}",
    "  {% if true %}\n  a\n  {% endif %}\nb\n", "a\n{%- if true %} b {%- endif -%}\n c", "{# c #}\nx{# y #}z\n", "x  {{- 1 -}}  y",
    "{% raw %}{{ not }}{% endraw %}", "{{ a.nope.x }}", "{{ nope.x }}", "{{ raise_exception('no: ' + a) }}", "{{ 1 + 'a' }}", "{{ [1] | nosuch }}", "{{ 1 / 0 }}",
    "{% call m2() %}body{% endcall %}{% macro m2() %}x{% endmacro %}", "{% macro w() %}[{{ caller() }}]{% endmacro %}{% call w() %}in{% endcall %}",
    "{{ true is boolean }} {{ 1 is number }} {{ 'a' is string }} {{ {} is mapping }} {{ [] is iterable }} {{ [] is sequence }}", "{{ 3 is odd }} {{ 4 is even }} {{ 6 is divisibleby 3 }}",
    "{{ messages[-1].content }}", "{% for m in messages %}{{ loop.first }}{{ loop.previtem.role if loop.previtem is defined }}{% endfor %}", "{{ dict(a=1) }} {{ {'a': 1}.get('b', 2) }} {{ {'a': 1}.get('b') }}",
    "{{ ('a', 'b') | join('-') }} {{ [1, 2] + [3] }} {{ [0] * 3 }} {{ 'ab' * 2 }}", "{% set a, b = 1, 2 %}{{ b }}{{ a }}", "{% with q = 3 %}{{ q }}{% endwith %}{{ q }}",
    "{{ messages[1:] | length }}{% for m in messages[1:] %}{{ m.role }}{% endfor %}", "{{ '%' }}{{ '}}' }}", "{{ {'a': {'b': 'c'}}.a.b }}", "{{ 'A' | lower ~ 'b' | upper }}", "{{ a | trim | length > 2 }}",
    "{{- bos_token }}{%- for message in messages -%}{{ '<|' + message['role'] + '|>\\n' + message['content'] | trim + eos_token }}{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|assistant|>\\n' }}{%- endif -%}",
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    "{{ q is iterable }} {{ q is sequence }} {{ q | length }} {{ q | list }} {{ q is mapping }} {{ none is iterable }}",
    "{% for x in q %}a{% else %}b{% endfor %}",
    "{% set x=1 %}{% macro m() %}{{ x }}{{ y }}{{ caller() }}{% endmacro %}{% for y in [5] %}{% set x=2 %}{% call m() %}<{{ x }}{{ y }}>{% endcall %}{% endfor %}",
    "{% macro m() %}{{ caller(1, b=2) }}{% endmacro %}{% call(a, b=7, c=9) m() %}<{{ a }}{{ b }}{{ c }}>{% endcall %}",
    "{% for y in [5] %}{% set z = 3 %}{% macro m() %}{{ y }}{{ z }}{% set z = 4 %}{{ z }}{% endmacro %}{{ m() }}{{ z }}{% endfor %}",
    "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}", "{% set v = 1 %}{% macro a() %}{{ v }}{% endmacro %}{% set v = 2 %}{{ a() }}",
    "{% macro o() %}{% macro i() %}{{ p }}{% endmacro %}{% set p = 3 %}{{ i() }}{% endmacro %}{{ o() }}",
    "{% macro m(x) %}{{ caller(x) }}{% endmacro %}{% macro n(z) %}{% call(k) m(z) %}{{ k }}{{ z }}{% endcall %}{% endmacro %}{{ n(4) }}",
    "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}",
    "{{ [1, 2, 3][1:] + [4] }} {{ 'abc'[0] in 'cab' }}",
    "{{ messages | rejectattr('role', 'equalto', 'user') | map(attribute='role') | list }} {{ [1, 2, 3, 4] | select('even') | list }} {{ [0, 1, '', 'a'] | select | list }}",
    "{{ ['b', 'a'] | join }} {{ 'a' is eq 'a' }} {{ 1 is ne 2 }} {{ 3 is gt 2 }} {{ 'x' is in 'xyz' }}", "{{ 'abc' | list }} {{ 'a b' | replace(' ', '_') | upper }}",
    "{{ 'x' * 3 }} {{ 5 // 2 }} {{ -5 // 2 }} {{ 5 % -3 }} {{ 2 ** -1 }} {{ 1e3 | int }} {{ '0x1f' | int(base=16) }}", "{{ 'abc'.find('c') }} {{ 'a.b.c'.count('.') }}",
    "{% set d = {'a': 1, 2: 'b', 'c': none} %}{{ d }} {{ d.keys() | list }} {{ d.values() | list }} {{ d | length }} {{ d[2] }}",
    "{% for k in {'x': 1, 'y': 2} %}{{ k }}{{ loop.revindex }}{{ loop.length }}{% endfor %}", "{% for i in range(5, 0, -2) %}{{ i }}{{ loop.last }}{% endfor %}",
    "{{ 'é\\u00e9\\x41' }} {{ 'a\\tb' }} {{ \"it's\" | tojson }} {{ 'a/b</script>' | tojson }} {{ 1.0 | tojson }} {{ true | tojson }} {{ none | tojson }}",
    "{{ 10 | string + '1' }} {{ 3.0 }} {{ 3.5 | int }} {{ 1 / 3 }} {{ 1_000 }}",
    "{% if messages and messages[0].content %}yes{% endif %}{{ 'a' if not messages else messages | length ~ '!' }}", "{{ ['a', 'b'].index('b') }} {{ {'a': 1}.pop('a') }}",
]
VARS = {"a": "abc", "bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": True,
        "messages": [{"role": "system", "content": "Be brief. "}, {"role": "user", "content": "Hi <|x|> é"},
                     {"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "日本 'q'"}]}


def main():
    cases = []
    for source in SNIPPETS + ALL:
        try:
            cases.append({"template": source, "text": chat_template_utils._compile_jinja_template(source).render(**VARS)})
        except Exception as e:
            cases.append({"template": source, "error": type(e).__name__})
    print(json.dumps({"vars": VARS, "cases": cases}, ensure_ascii=False, indent=0))


main()
