"""The style sheet of the report."""

from __future__ import annotations

STYLE_SHEET = """
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
 font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue","DejaVu Sans",sans-serif}
main{max-width:1064px;margin:0 auto;padding:28px 28px 56px}
h1{font-size:15px;font-weight:600;color:var(--muted);margin:0 0 4px}
h2{font-size:19px;margin:44px 0 10px;letter-spacing:-.005em}
.headline{font-size:29px;line-height:1.22;font-weight:680;letter-spacing:-.015em;margin:2px 0 8px;
 text-wrap:balance}
.rivals{text-wrap:pretty;font-size:17px;color:var(--ink);margin:0 0 10px;max-width:76ch}
.meta{color:var(--muted);font-size:14px;margin:0 0 14px}
.warning,.caveat{border-left:4px solid var(--vermillion);padding:7px 14px;margin:10px 0;
 background:color-mix(in srgb,var(--vermillion) 9%,transparent);border-radius:0 6px 6px 0}
.warning b{color:var(--vermillion)}
.caveat{border-color:var(--ash);background:color-mix(in srgb,var(--ash) 10%,transparent);
 font-size:14px}
figure{margin:14px 0 6px}
figure svg{display:block;width:100%;height:auto;overflow:visible}
figure.narrow{display:grid;grid-template-columns:62fr 32fr;gap:36px;align-items:center}
figure svg text{font-family:inherit!important}
figcaption{color:var(--muted);font-size:14px;max-width:92ch;margin:4px 0 14px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
th,td{padding:6px 8px;text-align:right;vertical-align:top;white-space:nowrap}
thead th{color:var(--muted);font-weight:600;border-bottom:1.5px solid var(--grid);cursor:help}
tbody tr{border-bottom:1px solid var(--grid)}
th:first-child,td:first-child{text-align:left;padding-left:0}
td:last-child,thead th:last-child{padding-right:0}
tbody th{font-weight:600;white-space:normal;overflow-wrap:anywhere;min-width:7em}
h1,p,li,summary,nav{overflow-wrap:anywhere}
td small{display:block;color:var(--muted);font-size:12px}
tr.best td,tr.best th{font-weight:700}
tr.best small{font-weight:400}
tr.context-free,tr.random,tr.oracle{color:var(--muted)}
.words{list-style:none;padding:0;margin:8px 0}
.words li{padding:4px 0 4px 24px;position:relative}
.words li::before{content:"○";position:absolute;left:2px;color:var(--muted)}
.words li.better::before{content:"▼";color:var(--blue)}
.words li.worse::before{content:"▲";color:var(--vermillion)}
details{margin:10px 0}
summary{cursor:pointer;font-weight:600}
.about{font-size:14px}
.about dl{display:grid;grid-template-columns:max-content 1fr;gap:5px 20px;margin:8px 0}
.about dt{font-weight:600}
.about dd{margin:0;overflow-wrap:anywhere}
code{font:13px/1.4 ui-monospace,"SF Mono",Menlo,Consolas,monospace;
 background:color-mix(in srgb,var(--ash) 14%,transparent);padding:1px 5px;border-radius:4px}
nav a{color:var(--blue);margin-right:16px}
section+section{border-top:2px solid var(--grid);margin-top:56px;padding-top:28px}
@media (max-width:720px){main{padding:18px 14px 40px}.headline{font-size:23px}
 figure{overflow-x:auto}figure svg{min-width:680px}figure.narrow{display:block}}
@media print{@page{size:A4;margin:14mm}body{font-size:10.5pt}main{max-width:none;padding:0}
 .headline{font-size:19pt}h2{margin-top:20pt;break-after:avoid}
 figure,tr,.warning,.caveat,.words li{break-inside:avoid}
 details{display:block}.about{font-size:9pt}table,td small{font-size:7.5pt}
 th,td{padding:3px 4px}.scroll{overflow:visible}figcaption,.meta,.caveat{font-size:9pt}
 .rivals{font-size:11.5pt}}
"""
