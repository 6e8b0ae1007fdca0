//! `require`: a CEL expression that must be true for a request to pass.

use cel::common::ast::{EntryExpr, Expr, IdedExpr};

use crate::node::Node;
use crate::problem::{Code, closest};
use crate::read::Reader;

#[derive(Debug, Clone, PartialEq)]
pub struct Require {
    pub source: String,
    pub expr: IdedExpr,
}

/// What an expression can look at, in Envoy's words.
const ATTRIBUTES: &[&str] =
    &["request", "source", "destination", "connection", "metadata", "filter_state", "xds", "node"];
/// Attributes that come with features of later versions.
const NOT_YET: &[&str] = &["claims", "consumer", "tier"];
const MAX_LENGTH: usize = 4096;

pub(crate) fn require(r: &mut Reader<'_>, node: &Node) -> Option<Require> {
    let source = r.word(node)?;
    if source.len() > MAX_LENGTH {
        r.wrong(node, Code::Value, format!("longer than {MAX_LENGTH} characters"));
        return None;
    }
    let program = match cel::Program::compile(&source) {
        Ok(program) => program,
        Err(why) => {
            let why = why.to_string();
            r.wrong(node, Code::Value, format!("not a CEL expression: {}", why.lines().next().unwrap_or_default()));
            return None;
        }
    };
    let expr = program.expression().clone();
    let mut roots = Vec::new();
    names(&expr, &mut Vec::new(), &mut roots);
    roots.sort();
    roots.dedup();
    for name in roots {
        if NOT_YET.contains(&name.as_str()) {
            r.wrong(node, Code::NotYet, format!("`{name}` is not implemented yet"));
        } else if !ATTRIBUTES.contains(&name.as_str()) {
            r.wrong(node, Code::Undefined, format!("`{name}` is not an attribute"));
            r.hint(match closest(&name, ATTRIBUTES.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("attributes: {}", ATTRIBUTES.join(", ")),
            });
        }
    }
    Some(Require { source, expr })
}

/// The free names of an expression.
fn names(node: &IdedExpr, bound: &mut Vec<String>, out: &mut Vec<String>) {
    match &node.expr {
        Expr::Ident(name) if !bound.contains(name) => out.push(name.clone()),
        Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => (),
        Expr::Call(call) => call.target.iter().map(Box::as_ref).chain(&call.args).for_each(|e| names(e, bound, out)),
        Expr::Select(select) => names(&select.operand, bound, out),
        Expr::List(list) => list.elements.iter().for_each(|e| names(e, bound, out)),
        Expr::Map(map) => map.entries.iter().for_each(|e| entry(&e.expr, bound, out)),
        Expr::Struct(object) => object.entries.iter().for_each(|e| entry(&e.expr, bound, out)),
        Expr::Comprehension(c) => {
            names(&c.iter_range, bound, out);
            names(&c.accu_init, bound, out);
            let depth = bound.len();
            bound.extend([c.iter_var.clone(), c.accu_var.clone()]);
            bound.extend(c.iter_var2.clone());
            [&c.loop_cond, &c.loop_step, &c.result].into_iter().for_each(|e| names(e, bound, out));
            bound.truncate(depth);
        }
    }
}

fn entry(entry: &EntryExpr, bound: &mut Vec<String>, out: &mut Vec<String>) {
    match entry {
        EntryExpr::StructField(field) => names(&field.value, bound, out),
        EntryExpr::MapEntry(map) => {
            names(&map.key, bound, out);
            names(&map.value, bound, out);
        }
    }
}
